"""Carry out a plan in a prefix: link archives, install wheels, remove what is extra, compile byte-code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import FileManifests
from envtool.artifacts.wheel_paths import require_plain_paths
from envtool.console import ProgressDisplay
from envtool.install.extract import linked, unpack
from envtool.install.shared_paths import Sharing, left_behind
from envtool.lockfile.conda_lock_v1 import LockedPackage
from envtool.package_cache.materialize import Placement, place
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
    placings: Sequence[Placement],
    proven: Mapping[str, Path],
    platform: str,
    manifests: FileManifests,
    display: ProgressDisplay,
) -> Known:
    """Change a prefix as a plan says.

    Args:
        prefix: the prefix, locked and marked incomplete.
        wanted: every package that the prefix shall have.
        placings: what need not be unpacked; none unless the plan starts over.
        proven: the file of each other URL that the plan needs.
        manifests: where is kept what the archives and wheels turn out to hold.

    Returns:
        The files that need not be read back.

    Raises:
        EnvtoolError: an archive or wheel cannot be installed.
        SharedPathsError: a path that the plan does not make anew is shared with something that it changes.
    """
    is_placed = {each.package.url for each in placings}
    new_archives = [each for each in plan.installs("conda") if each.url not in is_placed]
    new_wheels = [each for each in plan.installs("pip") if each.url not in is_placed]
    for each in new_wheels:
        require_plain_paths(proven[each.url])
    left = set() if plan.starts_over else left_behind(prefix, plan)
    with _read_meanwhile(new_wheels, proven, manifests):
        if plan.starts_over:
            prefix.clear()
        for path in plan.delete:
            _delete(prefix.path, path)
        placed = _place(prefix, placings, display)
        sharing = Sharing(wanted, plan, [each.package for each in placings], manifests, proven, left)
        written = {}
        if new_archives or (plan.removes("conda") and not plan.starts_over):
            written = _link(prefix, new_archives, sharing, proven, platform, display)
        if new_wheels or not plan.starts_over:
            sharing.require_settled()
        if not plan.starts_over:
            _uninstall_wheels(prefix, plan)
        if new_wheels:
            _install_wheels(prefix, new_wheels, sharing, proven, display)
        has_python = any((each.manager, each.name) == ("conda", "python") for each in wanted)
        if has_python and prefix.python.exists():
            with display.task("compile byte-code"):
                bytecode.compile_all(prefix.path, prefix.python, [path for path in placed if source_of(path)])
    return Known(placed, written)


@contextmanager
def _read_meanwhile(
    new: Sequence[LockedPackage], proven: Mapping[str, Path], manifests: FileManifests
) -> Iterator[None]:
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


def _place(prefix: Prefix, placings: Sequence[Placement], display: ProgressDisplay) -> dict[str, Entry]:
    if not placings:
        return {}
    with display.task(f"place {len(placings)} unpacked packages"):
        return place(placings, prefix.path)


def _link(
    prefix: Prefix,
    new: Sequence[LockedPackage],
    sharing: Sharing,
    proven: Mapping[str, Path],
    platform: str,
    display: ProgressDisplay,
) -> dict[Inode, Written]:
    kept = [each.name for each in sharing.wanted if each.manager == "conda" and each not in new]
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
            sharing.manifests.keep_archive(sha256, archive, found.payload, found.info)
            written.update(found.written)
            requests.append(LinkRequest(each.name, each.url, sha256, archive, directories[archive], each.md5))
        sharing.require_settled()
        for each in new:
            sharing.yield_paths(each, directories[proven[each.url]])
        rattler.link(requests, kept, prefix.path, platform, scratch)
        sharing.make_directories(prefix.path, new)
        return linked(scratch, written)


def _uninstall_wheels(prefix: Prefix, plan: Plan) -> None:
    again = {each.name for each in plan.installs("pip")}
    gone = [each.name for each in plan.removes("pip") if each.name not in again]
    if gone:
        from envtool.pypi import install

        install.uninstall(gone, prefix.path)


def _install_wheels(
    prefix: Prefix, new: Sequence[LockedPackage], sharing: Sharing, proven: Mapping[str, Path], display: ProgressDisplay
) -> None:
    from envtool.pypi import install  # many environments have none

    with display.task(f"install {len(new)} wheels"):
        for number, layer in enumerate(sharing.layers(new)):
            for path in sharing.lost_to(layer):
                _delete(prefix.path, path)
            with _scratch(prefix, f"wheels-{number}") as scratch:
                by_name = {f"{each.name}=={each.version}": each for each in layer}
                paths = {name: proven[each.url] for name, each in by_name.items()}
                hashes = {name: require_sha256(each) for name, each in by_name.items()}
                install.install(paths, hashes, prefix.path, scratch)


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
    if not os.path.lexists(prefix / path):
        return
    (prefix / path).unlink()
    for parent in (prefix / path).parents:
        if parent == prefix or any(parent.iterdir()):
            break
        parent.rmdir()
