"""Debian packages as conda packages: what is said in conda's words, where files go, what is refused."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import rattler

from envtool.artifacts.conda_package import PLACEHOLDER, Entry
from envtool.channel.python_recipe import deb_archive, debian, debian_control, debian_layout, debian_licenses, elf
from envtool.channel.python_recipe.debian import Made, Wish
from envtool.errors import ArchiveError
from tests.support.debs import file, package, special, tar

COPYRIGHT = b"License: Expat\n\nFiles: x\nLicense: GPL-2+ or Artistic\n text\n"


def made_of(tmp_path: Path, *debs: deb_archive.Deb, **wish: object) -> list[Made]:
    return debian.convert(debs, Wish(**wish), elf.find_patchelf(), tmp_path)  # type: ignore[arg-type]


def demo(
    tmp_path: Path,
    *members: tuple[tarfile.TarInfo, bytes],
    name: str = "demo",
    control: str = "",
    version: str = "1.0-1",
) -> deb_archive.Deb:
    """A package that was written and read again."""
    stated = f"Package: {name}\nVersion: {version}\nArchitecture: all\nDescription: a demo\n{control}"
    members = (*members, file(f"./usr/share/doc/{name}/copyright", COPYRIGHT))
    path = tmp_path / f"{name}.deb"
    path.write_bytes(package(tar(*members), control=stated.encode()))
    return deb_archive.read(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.6-2.1+deb12u3", "1.6_2.1+1.deb12u3"),
        ("1:1.2.13.dfsg-1", "1!1.2.13.dfsg_1"),
        ("6.2+20201114-2+deb11u2", "6.2+1.20201114_2.1.deb11u2"),
        ("5.0~RC1-1", "5.0.rc1_1"),
        ("2.0", "2.0"),
    ],
)
def test_versions(text: str, expected: str) -> None:
    found = debian_control.conda_version(deb_archive.Deb("demo", text, ()))
    assert found == expected
    assert str(rattler.Version(found)) == found


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.6-2.1+deb12u2", "1.6-2.1+deb12u3"), ("1.6-2.1", "1.6-2.1+deb12u1"), ("9.0-1", "1:1.0-1"),
        ("5.0~rc1-1", "5.0-1"), ("6.2+20201114-2", "6.2+20201114-2+deb11u2"), ("1.9-1", "1.10-1"),
        ("1.07.1-3+b1", "1.07.1-3+b2"),
    ],
)  # fmt: skip
def test_what_debian_publishes_later_is_newer(older: str, newer: str) -> None:
    first, second = (
        rattler.Version(debian_control.conda_version(deb_archive.Deb("x", each, ()))) for each in (older, newer)
    )
    assert first < second


def test_a_version_that_conda_cannot_say() -> None:
    with pytest.raises(ArchiveError, match="conda cannot say"):
        debian_control.conda_version(deb_archive.Deb("demo", "x1", ()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("License: GPL-2+\nLicense: LGPL-2.1\n", "GPL-2.0-or-later AND LGPL-2.1-only"),
        ("License: BSD-3-clause and Expat\n", "(BSD-3-Clause AND MIT)"),
        ("License: my own terms\n", "LicenseRef-my-own-terms"),
        ("Do what you like.\n", "LicenseRef-Debian-copyright"),
    ],
)
def test_licences(text: str, expected: str) -> None:
    assert debian_licenses.license_expression([Entry("copyright", text.encode())]) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("usr/bin/jq", "bin/jq"),
        ("bin/ls", "bin/ls"),
        ("usr/sbin/nginx", "bin/nginx"),
        ("usr/lib/x86_64-linux-gnu/libz.so.1", "lib/libz.so.1"),
        ("lib/x86_64-linux-gnu/libz.so.1", "lib/libz.so.1"),
        ("usr/include/aarch64-linux-gnu/x.h", "include/x.h"),
        ("usr/lib/git-core/git", "lib/git-core/git"),
        ("etc/inputrc", "etc/inputrc"),
        ("var/lib/x", None),
        ("usr/local/x", None),
    ],
)
def test_places(path: str, expected: str | None) -> None:
    assert debian_layout.place(path) == expected


@pytest.mark.parametrize(
    ("path", "target", "expected"),
    [
        ("usr/lib/x86_64-linux-gnu/libz.so", "libz.so.1", "libz.so.1"),
        ("usr/lib/x86_64-linux-gnu/libz.so", "/lib/x86_64-linux-gnu/libz.so.1", "libz.so.1"),
        ("usr/sbin/x", "../share/demo/x", "../share/demo/x"),
        ("usr/share/demo/conf", "/etc/demo", "../../etc/demo"),
        ("usr/share/demo/conf", "/dev/null", None),
        ("usr/share/x", "../../../../x", None),
    ],
)
def test_links(path: str, target: str, expected: str | None) -> None:
    assert debian_layout.link_target(path, target) == expected


def test_paths_of_a_text_that_are_in_the_prefix() -> None:
    known = {"share/demo", "share/demo/data", "bin/demo"}
    text = (
        b"#!/usr/bin/demo -x\ncat /usr/share/demo/data. /usr/share/demo/ /usr/share/other\n"
        b"$DESTDIR/usr/share/demo ${prefix}/share/demo x/usr/share/demo /bin/sh\n"
    )
    found = debian_layout.with_placeholder("bin/run", text, known).decode().replace(PLACEHOLDER, "P")
    assert found == (
        "#!P/bin/demo -x\ncat P/share/demo/data. P/share/demo/ /usr/share/other\n"
        "$DESTDIR/usr/share/demo ${prefix}/share/demo x/usr/share/demo /bin/sh\n"
    )
    assert debian_layout.with_placeholder("share/doc/demo/README", text, known) == text
    pc = debian_layout.with_placeholder(
        "lib/pkgconfig/z.pc", b"prefix=/usr\nlibdir=${prefix}/lib/x86_64-linux-gnu\n", known
    )
    assert pc.decode() == f"prefix={PLACEHOLDER}\nlibdir=${{prefix}}/lib\n"


def test_a_package_for_every_platform(tmp_path: Path) -> None:
    (made,) = made_of(
        tmp_path,
        demo(
            tmp_path,
            file("./usr/bin/demo", b"#!/bin/sh\ncat /usr/share/demo/word\n", 0o755),
            file("./usr/share/demo/word", b"word\n"),
            special("./usr/bin/again", tarfile.SYMTYPE, "demo"),
            control="Depends: libc6 (>= 2.4), perl:any (>= 5), dpkg | install-info\nHomepage: https://example.org/\n",
        ),
        names={"perl": "perl >=5", "dpkg": ""},
        depends=("bash",),
    )
    package = made.package
    assert (package.name, package.version, package.subdir, package.noarch) == ("demo", "1.0_1", "noarch", "generic")
    assert package.depends == ("bash", "perl >=5")
    assert package.license == "(GPL-2.0-or-later OR LicenseRef-Artistic) AND MIT"
    assert (package.summary, package.home, package.build[0]) == ("a demo", "https://example.org/", "h")
    files = {each.path: each for each in package.files}
    assert files["bin/demo"].content == f"#!/bin/sh\ncat {PLACEHOLDER}/share/demo/word\n".encode()
    assert files["bin/demo"].is_executable
    assert files["bin/demo"].has_placeholder
    assert files["bin/again"].link == "demo"
    assert [each.path for each in package.about] == ["licenses/demo/copyright", "recipe/debian.json"]
    assert made.notes == ()


def test_what_is_built_in_is_said(tmp_path: Path) -> None:
    binary = b"\x7fELF\0/usr/share/demo/word\0/usr/share/locale\0"
    (made,) = made_of(tmp_path, demo(tmp_path, file("./usr/bin/demo", binary), file("./usr/share/demo/word")))
    assert made.notes == ("demo: bin/demo has /usr/share/demo/word built in, and looks there and not in the prefix",)


def test_packages_that_belong_together(tmp_path: Path) -> None:
    data = demo(tmp_path, file("./usr/share/data/x", b"x"), name="libx++-data", version="2:1.0-1")
    link = special("./usr/share/doc/tool-doc", tarfile.SYMTYPE, "tool")
    tool = demo(
        tmp_path,
        file("./usr/bin/tool", b"#!/bin/sh\n/usr/share/data/x\n"),
        name="tool",
        control="Depends: libx++-data\n",
    )
    path = tmp_path / "doc.deb"
    path.write_bytes(
        package(tar(link), control=b"Package: tool-doc\nVersion: 1\nArchitecture: all\nDepends: tool (= 1)\n")
    )
    made = made_of(tmp_path, tool, data, deb_archive.read(path))
    assert [each.package.name for each in made] == ["tool", "libxxx-data", "tool-doc"]
    assert [each.package.depends for each in made] == [("libxxx-data >=2!1.0_1",), (), ("tool ==1.0_1",)]
    assert made[0].package.files[0].has_placeholder
    assert made[2].package.about[0].content == COPYRIGHT


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (file("./var/lib/demo/x"), "/var/lib/demo/x, which no prefix has a place for"),
        (file("./usr/bin/su", mode=0o4755), "rights of its owner"),
        (file("./usr/lib/python3/dist-packages/x.py"), "Debian's own Python"),
        (special("./usr/bin/x", tarfile.SYMTYPE, "/dev/null"), "out of the prefix"),
    ],
)
def test_what_no_prefix_can_hold(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes], message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        made_of(tmp_path, demo(tmp_path, member))


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ("Depends: other\n", "depends on other, which is not among the packages"),
        ("Depends: (x)\n", "a dependency that is none"),
        ("Architecture: hurd-i386\n", "is for hurd-i386"),
    ],
)
def test_what_cannot_be_said(tmp_path: Path, control: str, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        made_of(tmp_path, demo(tmp_path, control=control))


def test_glibc_and_missing_licences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="belongs to the machine"):
        made_of(tmp_path, demo(tmp_path, name="libc6"))
    path = tmp_path / "bare.deb"
    path.write_bytes(package(tar(file("./usr/bin/x")), control=b"Package: bare\nVersion: 1\nArchitecture: all\n"))
    with pytest.raises(ArchiveError, match="bare has no copyright file"):
        made_of(tmp_path, deb_archive.read(path))


def test_what_is_linked() -> None:
    assert elf.is_linked(Entry("bin/sh", Path("/bin/sh").read_bytes()))
    assert not elf.is_linked(Entry("x", b"\x7fELF"))
    assert not elf.is_linked(Entry("x", b"#!/bin/sh\n" * 20))
    assert elf.least_glibc(Entry("x", b"\0GLIBC_2.4\0GLIBC_2.34\0GLIBC_2.2.5\0")) == (2, 34)
    assert elf.least_glibc(Entry("x", b"")) == (0, 0)
