"""The start on a machine that has only Python, with the standard library alone: envtool is proven and unpacked below
`~/.envtool/tools`, where `bin/envtool` stays, then it installs the bundle. Out of scope: who made the bundle; check its
signature before, with a trusted envtool or openssl (docs/how-to/offline.md)."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from envtool import paths
from envtool.bundle.format import TOOLS_GLIBC, Bundle, open_bundle
from envtool.console import fail, say
from envtool.errors import BundleError, EnvtoolError

_MACHINES = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}
_USAGE = """\
usage: python3 {name} [-n NAME | -p PREFIX] [OPTION]...

Makes the environment that this bundle holds; no network is needed. The options are those of `envtool bundle install`,
and --help shows them. Only to unpack envtool, and to see where it is: python3 {name} --tools"""
_LAUNCHER = """\
#!{python} -I
import sys
sys.path.insert(0, {site!r})
from envtool.__main__ import main
main()
"""


def main() -> NoReturn:
    """Unpack envtool and become it."""
    started, arguments = Path(sys.argv[0]).absolute(), sys.argv[1:]
    source = started.parent if (started.parent / "manifest.json").is_file() else started
    if not arguments:
        say(_USAGE.format(name=Path(sys.argv[0]).name))
        sys.exit(2)
    try:
        program = unpack_tools(open_bundle(source))
    except EnvtoolError as error:
        fail(error)
        sys.exit(3)
    except OSError as error:
        fail(EnvtoolError(f"{error.filename or 'a file'} cannot be written: {error.strerror}", "set ENVTOOL_HOME"))
        sys.exit(3)
    if arguments == ["--tools"]:
        sys.stdout.write(f"{program}\n")
        sys.exit(0)
    # -I: nothing that PYTHONPATH or the user's site-packages bring can come between.
    argv = [sys.executable, "-I", str(program), "bundle", "install", str(source), *arguments]
    os.execv(sys.executable, argv)  # noqa: S606 - no shell is what is wanted here


def unpack_tools(bundle: Bundle) -> Path:
    """Unpack the wheels of envtool, unless that was done. Raises BundleError if there are none for this machine."""
    wheels = _wheels(bundle)
    digest = hashlib.sha256("".join(f"{each}\n" for each in (sys.executable, *wheels)).encode())
    place = paths.home() / "tools" / f"{digest.hexdigest()[:16]}-python{_python()}"
    program = place / "bin" / "envtool"
    if not program.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=place.parent) as scratch:
            _unpack(bundle, wheels, Path(scratch) / "tools", place)
            try:
                (Path(scratch) / "tools").rename(place)
            except OSError:
                if not program.is_file():  # another process was quicker, or not
                    raise
    return program


def _wheels(bundle: Bundle) -> Sequence[str]:
    subdir = _MACHINES.get(platform.machine()) if sys.platform == "linux" else None
    offered = bundle.manifest.tools.get(subdir or "", {})
    if _python() not in offered or sys.implementation.name != "cpython":
        has = [f"CPython {each} on {name}" for name, all_ in sorted(bundle.manifest.tools.items()) for each in all_]
        raise BundleError(
            f"{bundle.path} has no envtool for this machine: expected one of {', '.join(has) or 'none at all'}, "
            f"found {platform.python_implementation()} {_python()} on {sys.platform} {platform.machine()}",
            "run it with another Python of this machine, such as python3.11, or make the bundle with --python "
            f"{_python()}",
        )
    library, version = platform.libc_ver()
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if library != "glibc" or found < tuple(int(part) for part in TOOLS_GLIBC.split(".")):
        raise BundleError(
            f"this machine cannot run envtool: expected glibc {TOOLS_GLIBC} or newer, "
            f"found {library or 'another C library'} {version}".rstrip(),
            "Debian 10, Ubuntu 20.04, RHEL 8 and newer ones have it",
        )
    return offered[_python()]


def _python() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _unpack(bundle: Bundle, wheels: Sequence[str], target: Path, final: Path) -> None:
    say(f"unpack envtool ({len(wheels)} wheels) to {final}")
    site = Path("lib", f"python{_python()}", "site-packages")
    for path in wheels:
        # In memory, the largest has some 25 MB: nothing is unpacked before it is proven.
        with zipfile.ZipFile(io.BytesIO(bundle.read(path))) as wheel:
            for member in wheel.infolist():
                place = _placed(member.filename, site)
                if member.is_dir() or place is None:
                    continue
                (target / place).parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(member) as source, (target / place).open("wb") as file:
                    shutil.copyfileobj(source, file)
                if place.parts[0] == "bin":
                    (target / place).chmod(0o755)
    program = target / "bin" / "envtool"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(_LAUNCHER.format(python=sys.executable, site=str(final / site)))
    program.chmod(0o755)


def _placed(name: str, site: Path) -> Path | None:
    # Source: the wheel specification, "Installing a wheel": what is in .data goes where its first directory says.
    parts = Path(name).parts
    if name.startswith("/") or ".." in parts:
        raise BundleError(f"a wheel of the bundle has an unsafe path: {name!r}")
    if not parts[0].endswith(".data"):
        return site / name
    places = {"purelib": site, "platlib": site, "scripts": Path("bin"), "data": Path()}
    return places[parts[1]].joinpath(*parts[2:]) if parts[1] in places else None
