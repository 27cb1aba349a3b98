"""Making a bundle: every archive and wheel of a lock, and envtool itself, proven and put into one file or directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from envtool.artifacts.download import require_sha256
from envtool.bundle import envtool_wheels, writer
from envtool.bundle.manifest import LOCKFILE, STARTER, File, Manifest, path_of
from envtool.console import ProgressDisplay
from envtool.fetch.archive_cache import Cache, sha256_of
from envtool.install.request import Request
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile, read_lockfile, write_lockfile
from envtool.mirrors import mirrors
from envtool.signing import keyring
from envtool.solve.md5_completion import read_complete
from envtool.source_builds.acquire import fetch_packages


@dataclass(frozen=True)
class Order:
    """What a bundle shall hold.

    Args:
        pythons: the Python versions of the machines that it is for, such as `3.11`.
        tools_path: where the choice of envtool's own wheels is kept, if it is.
    """

    lockfile_path: Path
    platforms: tuple[str, ...]
    categories: tuple[str, ...]
    pythons: tuple[str, ...] = envtool_wheels.PYTHONS
    tools_path: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True)
class Made:
    """A bundle that was made.

    Args:
        sha256: the hash of the file, of a directory the one of its manifest.
    """

    path: Path
    manifest: Manifest
    sha256: str
    is_signed: bool


def create(order: Order, target: Path, cache: Cache, display: ProgressDisplay, *, as_directory: bool = False) -> Made:
    """Make a bundle.

    Raises:
        PrefixError: it has nothing for a platform or category.
        NetworkError, HashMismatchError: an archive or wheel could not be downloaded or proven.
        SolveError: there are no wheels of envtool for one of the Pythons.
        BundleError: the target is something else already.
    """
    writer.refuse_foreign(target, as_directory=as_directory)
    lockfile = read_complete(order.lockfile_path)
    packages = _packages(order, lockfile)
    with TemporaryDirectory(prefix="envtool-bundle-") as name:
        scratch = Path(name)
        with display.task("make the wheel of envtool"):
            wheel = envtool_wheels.own_wheel(scratch)
        own = path_of(wheel.name, sha256_of(wheel))
        tool_packages = _tools(order, wheel, display)
        proven = fetch_packages([*packages, *tool_packages], cache, display)
        (scratch / STARTER).write_bytes(writer.starter())
        lock = _carried_lock(order.lockfile_path, lockfile, scratch)
        sources = {LOCKFILE: lock, STARTER: scratch / STARTER, own: wheel}
        sources.update({**_files(proven, packages), **_files(proven, tool_packages)})
        manifest = _manifest(order, sources, tool_packages, own)
        signed = keyring.sign(manifest.format(), order.key_file) if order.key_file else None
        with display.task(f"write {target}", manifest.size_bytes, in_bytes=True) as task:
            if as_directory:
                writer.write_directory(target, manifest, signed, sources, task)
                sha256 = sha256_of(target / "manifest.json")
            else:
                sha256 = writer.write_file(target, manifest, signed, sources, task)
    return Made(target, manifest, sha256, signed is not None)


def _carried_lock(path: Path, lockfile: Lockfile, scratch: Path) -> Path:
    if lockfile == read_lockfile(path):
        return path
    # An old lock with MD5 only is written with the sha256, which the other machine cannot look up.
    write_lockfile(scratch / LOCKFILE, lockfile)
    return scratch / LOCKFILE


def _packages(order: Order, lockfile: Lockfile) -> list[LockedPackage]:
    requests = [Request(lockfile, platform, order.categories, "") for platform in order.platforms]
    return [each for request in requests for each in request.packages()]


def _tools(order: Order, wheel: Path, display: ProgressDisplay) -> list[LockedPackage]:
    platforms = [each for each in order.platforms if each.startswith("linux-")]
    with display.task(f"choose the wheels that envtool needs on Python {', '.join(order.pythons)}"):
        arguments = (wheel, platforms, order.pythons, mirrors.configured())
        chosen = (
            envtool_wheels.remembered(order.tools_path, *arguments)
            if order.tools_path
            else envtool_wheels.choose(*arguments)
        )
    wanted = {(platform, f"python{python}") for platform in platforms for python in order.pythons}
    return [each for each in chosen.packages if (each.platform, each.category) in wanted]


def _files(proven: Mapping[str, Path], packages: Sequence[LockedPackage]) -> dict[str, Path]:
    return {path_of(each.file_name, require_sha256(each)): proven[each.url] for each in packages}


def _manifest(order: Order, sources: Mapping[str, Path], tool_packages: Sequence[LockedPackage], own: str) -> Manifest:
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for each in tool_packages:
        by_python = found.setdefault(each.platform, {})
        python = each.category[len("python") :]
        path = path_of(each.file_name, require_sha256(each))
        by_python[python] = tuple(sorted({own, *by_python.get(python, ()), path}))
    return Manifest(
        created_by=f"envtool {version('envserve')}",
        platforms=order.platforms,
        categories=order.categories,
        files={path: File(_sha256(path, source), source.stat().st_size) for path, source in sorted(sources.items())},
        tools=found,
    )


def _sha256(path: str, source: Path) -> str:
    # Archives and wheels were proven a moment ago.
    return path.split("/")[1] if path.startswith("files/") else sha256_of(source)
