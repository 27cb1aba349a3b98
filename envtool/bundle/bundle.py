"""A bundle of a lock: every archive and wheel, and envtool itself, proven and put into one file or directory; there
they are proven into the cache, from which `create` makes the environment."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

import envtool
from envtool.artifacts.download import require_sha256
from envtool.atomic_files import write_atomically, writing
from envtool.bundle import envtool_wheels
from envtool.bundle.format import (
    CHUNK_BYTES,
    LOCKFILE,
    MANIFEST,
    SIGNATURE,
    STARTER,
    Bundle,
    File,
    Manifest,
    open_bundle,
    parse,
    path_of,
)
from envtool.console import ProgressDisplay, Task
from envtool.errors import BundleError, HashMismatchError
from envtool.fetch.archive_cache import Cache, Wanted, sha256_of
from envtool.fetch.client import part_url
from envtool.fetch.downloader import fetch
from envtool.install.create import Outcome
from envtool.install.create import create as create_environment
from envtool.install.request import Request
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile, parse_lockfile, read_lockfile, write_lockfile
from envtool.mirrors import mirrors
from envtool.signing import trust
from envtool.signing.trust import trusted as trusted_keys
from envtool.solve.md5_completion import read_complete
from envtool.source_builds.wheel_builds import fetch_or_build

if TYPE_CHECKING:
    from envtool.prefix.prefix import Prefix


_MTIME_S = 315_619_200  # 1980-01-02, which a zip archive can say in every time zone
_ZIP_TIME = (1980, 1, 2, 0, 0, 0)
# What runs before anything is installed: modules that need nothing but the standard library.
_STARTER_MODULES = (
    "__init__.py", "errors.py", "console.py", "paths.py",
    "bundle/__init__.py", "bundle/format.py", "bundle/bootstrap.py",
)  # fmt: skip
_STARTER_MAIN = """\
import sys

if sys.version_info < (3, 9):
    sys.exit("error: expected Python 3.9 or newer, found %d.%d" % sys.version_info[:2])
from envtool.bundle.bootstrap import main

main()
"""


def starter() -> bytes:
    """The zip archive that Python runs on the other machine."""
    buffer = io.BytesIO()
    root = Path(envtool.__file__).parent
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _ZIP_TIME), _STARTER_MAIN)
        for name in _STARTER_MODULES:
            archive.writestr(zipfile.ZipInfo(f"envtool/{name}", _ZIP_TIME), (root / name).read_bytes())
    return buffer.getvalue()


def write_file(
    target: Path, manifest: Manifest, signature: bytes | None, sources: Mapping[str, Path], task: Task
) -> str:
    """Write a bundle as one file; it appears whole or not at all. Returns the sha256 of the file."""
    with writing(target) as file:
        output = _Output(file, task)
        stream = cast(BinaryIO, output)
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK_BYTES) as tar:
            for name, content in _first(manifest, signature):
                tar.addfile(_member(name, len(content)), io.BytesIO(content))
            for name in _order(manifest):
                with sources[name].open("rb") as source:
                    tar.addfile(_member(name, manifest.files[name].size_bytes), source)
        output.write(sources[STARTER].read_bytes())
    return output.digest.hexdigest()


def write_directory(
    root: Path, manifest: Manifest, signature: bytes | None, sources: Mapping[str, Path], task: Task
) -> None:
    """Write a bundle as a directory; a file that is right already stays, so that rsync moves what is new alone."""
    root.mkdir(parents=True, exist_ok=True)
    # First, so that a directory is known as a bundle from then on; until it is whole, nothing can be installed from it.
    for name, content in _first(manifest, signature):
        if not ((root / name).is_file() and (root / name).read_bytes() == content):
            write_atomically(root / name, content)
    for name in _order(manifest):
        target, expected = root / name, manifest.files[name]
        if not (target.is_file() and sha256_of(target) == expected.sha256):
            target.parent.mkdir(parents=True, exist_ok=True)
            with writing(target) as file, sources[name].open("rb") as source:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
        task.advance(expected.size_bytes)
    # Only what a bundle has goes: whatever else somebody put here is not ours to remove.
    if signature is None:
        (root / SIGNATURE).unlink(missing_ok=True)
    for path in sorted((root / "files").glob("*/*")):
        if path.relative_to(root).as_posix() not in manifest.files:
            path.unlink()
            with contextlib.suppress(OSError):
                path.parent.rmdir()


class _Output:
    """A file that is hashed and shown while it is written."""

    def __init__(self, file: BinaryIO, task: Task) -> None:
        self.digest = hashlib.sha256()
        self._file = file
        self._task = task

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self._task.advance(len(data))
        return self._file.write(data)


def _first(manifest: Manifest, signature: bytes | None) -> Iterator[tuple[str, bytes]]:
    yield MANIFEST, manifest.format()
    if signature is not None:
        yield SIGNATURE, signature


def _order(manifest: Manifest) -> list[str]:
    first = [LOCKFILE, STARTER]
    return [*first, *sorted(path for path in manifest.files if path not in first)]


def _member(name: str, size_bytes: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size_bytes, _MTIME_S, 0o644
    return info


def refuse_foreign(target: Path, *, as_directory: bool) -> None:
    """Raise BundleError if there is something that is no bundle of the same form; a file may be any file."""
    if not target.exists():
        return
    if target.is_dir() is not as_directory:
        form = "directory" if target.is_dir() else "file"
        raise BundleError(f"{target} is a {form} already; nothing in it was touched", "name another place")
    if not as_directory or not any(target.iterdir()):
        return
    try:
        parse((target / MANIFEST).read_bytes(), str(target))
    except (OSError, BundleError):
        message = f"{target} holds something other than a bundle; nothing in it was touched"
        raise BundleError(message, "name another place") from None


class Order(NamedTuple):
    """What a bundle shall hold."""

    lockfile_path: Path
    platforms: tuple[str, ...]
    categories: tuple[str, ...]
    # The Python versions of the machines that it is for, such as `3.11`.
    pythons: tuple[str, ...] = envtool_wheels.PYTHONS
    tools_path: Path | None = None  # where the choice of envtool's own wheels is kept, if it is
    key_file: Path | None = None


class Made(NamedTuple):
    """A bundle that was made."""

    path: Path
    manifest: Manifest
    sha256: str  # of the file, of a directory that of its manifest
    is_signed: bool


def create(order: Order, target: Path, cache: Cache, display: ProgressDisplay, *, as_directory: bool = False) -> Made:
    """Make a bundle. Raises PrefixError if the lock has nothing for a platform or category, SolveError if there are no
    wheels of envtool for one of the Pythons, BundleError if the target is something else already, and what
    `fetch_or_build` raises."""
    refuse_foreign(target, as_directory=as_directory)
    lockfile = read_complete(order.lockfile_path)
    requests = [Request(lockfile, platform, order.categories, "") for platform in order.platforms]
    packages = [package for request in requests for package in request.packages]
    with TemporaryDirectory(prefix="envtool-bundle-") as name:
        scratch = Path(name)
        with display.task("make the wheel of envtool"):
            wheel = envtool_wheels.own_wheel(scratch)
        own = path_of(wheel.name, sha256_of(wheel))
        platforms = [each for each in order.platforms if each.startswith("linux-")]
        with display.task(f"choose the wheels that envtool needs on Python {', '.join(order.pythons)}"):
            arguments = (wheel, platforms, order.pythons, mirrors.configured())
            path, remembered, choose = order.tools_path, envtool_wheels.remembered, envtool_wheels.choose
            chosen = remembered(path, *arguments) if path else choose(*arguments)
        wanted = {(platform, f"python{python}") for platform in platforms for python in order.pythons}
        tool_packages = [package for package in chosen.packages if (package.platform, package.category) in wanted]
        proven = fetch_or_build([*packages, *tool_packages], cache, display)
        (scratch / STARTER).write_bytes(starter())
        lock = order.lockfile_path
        if lockfile != read_lockfile(lock):
            # An old lock with MD5 only is written with the sha256, which the other machine cannot look up.
            lock = scratch / LOCKFILE
            write_lockfile(lock, lockfile)
        sources = {LOCKFILE: lock, STARTER: scratch / STARTER, own: wheel}
        sources.update({**_files(proven, packages), **_files(proven, tool_packages)})
        manifest = _manifest(order, sources, tool_packages, own)
        signed = trust.sign_file(manifest.format(), order.key_file) if order.key_file else None
        with display.task(f"write {target}", manifest.size_bytes, in_bytes=True) as task:
            if as_directory:
                write_directory(target, manifest, signed, sources, task)
                sha256 = sha256_of(target / MANIFEST)
            else:
                sha256 = write_file(target, manifest, signed, sources, task)
    return Made(target, manifest, sha256, signed is not None)


def _files(proven: Mapping[str, Path], packages: Sequence[LockedPackage]) -> dict[str, Path]:
    return {path_of(package.file_name, require_sha256(package)): proven[package.url] for package in packages}


def _manifest(order: Order, sources: Mapping[str, Path], tool_packages: Sequence[LockedPackage], own: str) -> Manifest:
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for package in tool_packages:
        by_python, python = found.setdefault(package.platform, {}), package.category[len("python") :]
        path = path_of(package.file_name, require_sha256(package))
        by_python[python] = tuple(sorted({own, *by_python.get(python, ()), path}))
    return Manifest(
        created_by=f"envtool {version('envserve')}",
        platforms=order.platforms,
        categories=order.categories,
        # Archives and wheels were proven a moment ago.
        files={
            path: File(path.split("/")[1] if path.startswith("files/") else sha256_of(source), source.stat().st_size)
            for path, source in sorted(sources.items())
        },
        tools=found,
    )


class Trusted(NamedTuple):
    """A bundle whose signature was checked, where this machine asks for one."""

    bundle: Bundle
    key: str | None
    lockfile: Lockfile


def open_trusted(path: Path, key_files: Sequence[Path] = ()) -> Trusted:
    """Open a bundle and check its signature, by these public keys or those that this machine trusts. Raises BundleError
    if it is no whole bundle, SignatureError if keys are trusted and none of them has signed it."""
    keyring = trusted_keys(key_files)
    bundle = open_bundle(path)
    key = keyring.require(str(path), bundle.content, bundle.signature) if keyring else None
    lockfile = parse_lockfile(f"{LOCKFILE} in {path}", bundle.read(LOCKFILE).decode("utf-8"))
    return Trusted(bundle, key, lockfile)


def install(trusted: Trusted, request: Request, prefix: Prefix, cache: Cache, display: ProgressDisplay) -> Outcome:
    """Make an environment from a bundle without a network. Raises BundleError before anything of it is touched."""
    bundle = trusted.bundle
    wanted = [_wanted(bundle, package) for package in request.packages]
    with display.task(f"prove {len(wanted)} files of {bundle.path.name}", in_bytes=True) as task:
        try:
            fetch(wanted, cache, task)
        except HashMismatchError as error:
            message = f"{error.name} is damaged or altered:\n  expected {error.expected}\n  actual   {error.actual}"
            raise BundleError(message, "copy or make the bundle again; nothing was installed") from error
    return create_environment(
        replace(request, is_offline=True, is_vouched=trusted.key is not None), prefix, cache, display
    )


def verify(bundle: Bundle, task: Task) -> None:
    """Read every file of a bundle."""
    task.expect(bundle.manifest.size_bytes)
    for path in bundle.manifest.files:
        for chunk in bundle.chunks(path):
            task.advance(len(chunk))


def _wanted(bundle: Bundle, package: LockedPackage) -> Wanted:
    path = path_of(package.file_name, require_sha256(package))
    if path not in bundle.places:
        holds = f"{', '.join(bundle.manifest.platforms)} in {', '.join(bundle.manifest.categories)}"
        raise BundleError(
            f"{bundle.path} does not hold {package.file_name} of its lock ({package.platform}, {package.category}); "
            f"it was made for {holds}",
            "make a bundle that has it: envtool bundle create --platform … --category …",
        )
    place = bundle.places[path]
    url = part_url(place.container, place.offset, place.size_bytes)
    return Wanted(package.file_name, require_sha256(package), (url,), place.size_bytes)
