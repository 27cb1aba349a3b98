"""Carry out a plan in a prefix: link archives, install wheels, remove what is extra, compile byte-code."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import Manifests
from envtool.console import Display
from envtool.install.extract import linked, unpack
from envtool.lockfile.conda_lock_v1 import LockedPackage
from envtool.package_cache.materialize import Placing, place
from envtool.prefix import bytecode, rattler
from envtool.prefix.bytecode import source_of
from envtool.prefix.prefix import Prefix
from envtool.prefix.rattler import LinkRequest
from envtool.prefix.scan import Entry, Inode, Known, Written
from envtool.prefix.transaction_plan import Plan


def archives_needed(wanted: Sequence[LockedPackage], plan: Plan) -> list[LockedPackage]:
    """The packages whose archives or wheels a plan needs."""
    return [each for each in wanted if each in plan.install]


def carry_out(
    prefix: Prefix,
    plan: Plan,
    wanted: Sequence[LockedPackage],
    placings: Sequence[Placing],
    proven: Mapping[str, Path],
    platform: str,
    manifests: Manifests,
    display: Display,
) -> Known:
    """Change a prefix as a plan says.

    Args:
        prefix: The prefix, locked and marked incomplete.
        plan: What to change.
        wanted: Every package that the prefix shall have.
        placings: What need not be unpacked; none unless the plan starts over.
        proven: The file of each other URL that the plan needs.
        platform: The platform of the prefix.
        manifests: Where is kept what the archives and wheels turn out to hold.
        display: Where progress is shown.

    Returns:
        The files that need not be read back.

    Raises:
        EnvtoolError: An archive or wheel cannot be installed.
    """
    is_placed = {each.package.url for each in placings}
    new_archives = [each for each in plan.installs("conda") if each.url not in is_placed]
    new_wheels = [each for each in plan.installs("pip") if each.url not in is_placed]
    with _read_meanwhile(new_wheels, proven, manifests):
        if plan.starts_over:
            prefix.clear()
        for path in plan.delete:
            _delete(prefix.path, path)
        placed = _place(prefix, placings, display)
        written = {}
        if new_archives or (plan.removes("conda") and not plan.starts_over):
            written = _link(prefix, new_archives, wanted, proven, platform, manifests, display)
        if not plan.starts_over:
            _uninstall_wheels(prefix, plan)
        if new_wheels:
            _install_wheels(prefix, new_wheels, proven, display)
        if prefix.python.exists():
            with display.task("compile byte-code"):
                bytecode.compile_all(prefix.path, prefix.python, [path for path in placed if source_of(path)])
    return Known(placed, written)


@contextmanager
def _read_meanwhile(new: Sequence[LockedPackage], proven: Mapping[str, Path], manifests: Manifests) -> Iterator[None]:
    # uv unpacks a wheel with one thread, and what it unpacked shall be compared with what the wheel holds.
    pool = ThreadPoolExecutor(1, thread_name_prefix="manifest")
    try:
        unknown = [each for each in new if not manifests.is_known(require_sha256(each))]
        reading = [pool.submit(manifests.keep, require_sha256(each), "pip", proven[each.url]) for each in unknown]
        yield
        for each in reading:
            each.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _place(prefix: Prefix, placings: Sequence[Placing], display: Display) -> dict[str, Entry]:
    if not placings:
        return {}
    with display.task(f"place {len(placings)} unpacked packages"):
        return place(placings, prefix.path)


def _link(
    prefix: Prefix,
    new: Sequence[LockedPackage],
    wanted: Sequence[LockedPackage],
    proven: Mapping[str, Path],
    platform: str,
    manifests: Manifests,
    display: Display,
) -> dict[Inode, Written]:
    kept = [each.name for each in wanted if each.manager == "conda" and each not in new]
    written: dict[Inode, Written] = {}
    with (
        display.task(f"unpack and link {len(new)} conda packages", len(new)) as task,
        _scratch(prefix, "archives") as scratch,
    ):
        directories = {proven[each.url]: scratch / f"{number}" for number, each in enumerate(new)}
        unpacked = unpack(directories, prefix.path, task)
        requests = []
        for each in new:
            archive, sha256 = proven[each.url], require_sha256(each)
            found = unpacked[archive]
            manifests.keep_archive(sha256, archive, found.payload, found.info)
            written.update(found.written)
            requests.append(LinkRequest(each.name, each.url, sha256, archive, directories[archive], each.md5))
        rattler.link(requests, kept, prefix.path, platform, scratch)
        return linked(scratch, written)


def _uninstall_wheels(prefix: Prefix, plan: Plan) -> None:
    again = {each.name for each in plan.installs("pip")}
    gone = [each.name for each in plan.removes("pip") if each.name not in again]
    if gone:
        from envtool.pypi import resolve

        resolve.uninstall(gone, prefix.path)


def _install_wheels(prefix: Prefix, new: Sequence[LockedPackage], proven: Mapping[str, Path], display: Display) -> None:
    from envtool.pypi import resolve  # many environments have none

    with display.task(f"install {len(new)} wheels"), _scratch(prefix, "wheels") as scratch:
        by_name = {f"{each.name}=={each.version}": each for each in new}
        paths = {name: proven[each.url] for name, each in by_name.items()}
        resolve.install(paths, {name: require_sha256(each) for name, each in by_name.items()}, prefix.path, scratch)


@contextmanager
def _scratch(prefix: Prefix, name: str) -> Iterator[Path]:
    # Fresh and on the same file system: extracted files are hard-linked into the prefix, and with the directory gone
    # no other environment and no cache shares them, so that an edit in one environment cannot reach another.
    path = prefix.meta / ".scratch" / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path.parent, ignore_errors=True)


def _delete(prefix: Path, path: str) -> None:
    (prefix / path).unlink(missing_ok=True)
    for parent in (prefix / path).parents:
        if parent == prefix or any(parent.iterdir()):
            break
        parent.rmdir()
