"""Changes in a prefix: packages placed or linked, wheels installed, untracked files removed, byte-code compiled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from envtool.artifacts.download import require_sha256
from envtool.artifacts.stated_paths import require_plain_paths
from envtool.install.extract import linked, unpack
from envtool.install.link_script_runs import run_link_scripts
from envtool.install.shared_paths import SharedPaths
from envtool.lockfile.model import LockedPackage
from envtool.package_cache.materialize import Placement, place
from envtool.prefix.bytecode import compile_all, source_of
from envtool.prefix.rattler import LinkRequest, link
from envtool.prefix.scan import Entry, Inode, Known, Written

if TYPE_CHECKING:
    from envtool.install.transaction import Transaction


@dataclass(frozen=True)
class Applied:
    """What was done: the files that need not be read back, and what link scripts left for people to read."""

    known: Known
    messages: tuple[str, ...]


def apply(transaction: Transaction, placements: Sequence[Placement], proven: Mapping[str, Path]) -> Applied:
    """Change a prefix, which is locked and marked incomplete.

    Raises:
        EnvtoolError: an archive or wheel cannot be installed.
        SharedPathsError: a path that the plan does not make anew is shared with something that it changes.
    """
    prefix, plan = transaction.prefix, transaction.plan
    is_placed = {placement.package.url for placement in placements}
    archives = [package for package in plan.installs("conda") if package.url not in is_placed]
    wheels = [package for package in plan.installs("pip") if package.url not in is_placed]
    for wheel in wheels:
        require_plain_paths(proven[wheel.url])
    shared = SharedPaths(transaction, placements, proven)
    written: dict[Inode, Written] = {}
    with _read_meanwhile(shared, wheels):
        if plan.starts_over:
            prefix.clear()
        for path in plan.delete:
            _delete(prefix.path, path)
        placed = _place(transaction, placements)
        if archives or (plan.removes("conda") and not plan.starts_over):
            written = _link(shared, archives)
        if wheels or not plan.starts_over:
            shared.require_settled()
        if not plan.starts_over:
            _uninstall_wheels(transaction)
        if wheels:
            _install_wheels(shared, wheels)
        messages = run_link_scripts(transaction) if transaction.request.link_scripts() else ()
        has_python = any((package.manager, package.name) == ("conda", "python") for package in transaction.wanted)
        if has_python and prefix.python.exists():
            with transaction.display.task("compile byte-code"):
                kept = [path for path in placed if source_of(path)]
                compile_all(prefix.path, prefix.python, kept)
    return Applied(Known(placed, written), messages)


def _place(transaction: Transaction, placements: Sequence[Placement]) -> dict[str, Entry]:
    if not placements:
        return {}
    with transaction.display.task(f"place {len(placements)} unpacked packages"):
        return place(placements, transaction.prefix.path)


@contextmanager
def _read_meanwhile(shared: SharedPaths, wheels: Sequence[LockedPackage]) -> Iterator[None]:
    # uv unpacks a wheel with one thread, and what it unpacked shall be compared with what the wheel holds.
    manifests = shared.transaction.manifests
    pool = ThreadPoolExecutor(1, thread_name_prefix="manifest")
    try:
        unknown = {require_sha256(wheel): shared.proven[wheel.url] for wheel in wheels}
        reading = [
            pool.submit(manifests.keep, sha256, "pip", path)
            for sha256, path in unknown.items()
            if not manifests.is_known(sha256)
        ]
        yield
        for task in reading:
            task.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _link(shared: SharedPaths, new: Sequence[LockedPackage]) -> dict[Inode, Written]:
    transaction, proven = shared.transaction, shared.proven
    prefix = transaction.prefix
    kept = [package.name for package in transaction.wanted if package.manager == "conda" and package not in new]
    written: dict[Inode, Written] = {}
    with (
        transaction.display.task(f"unpack and link {len(new)} conda packages", len(new)) as task,
        _scratch(shared, "archives") as scratch,
    ):
        directories = {proven[package.url]: scratch / f"{number}" for number, package in enumerate(new)}
        unpacked = unpack(directories, prefix.path, task)
        requests = []
        for package in new:
            archive, sha256 = proven[package.url], require_sha256(package)
            found = unpacked[archive]
            transaction.manifests.keep_archive(sha256, archive, found.payload, found.info)
            written.update(found.written)
            requests.append(LinkRequest(package.name, package.url, sha256, archive, directories[archive], package.md5))
        shared.require_settled()
        for package in new:
            shared.yield_paths(package, directories[proven[package.url]])
        link(requests, kept, prefix.path, transaction.request.platform, scratch)
        shared.make_directories(new)
        return linked(scratch, written)


def _uninstall_wheels(transaction: Transaction) -> None:
    again = {package.name for package in transaction.plan.installs("pip")}
    gone = [package.name for package in transaction.plan.removes("pip") if package.name not in again]
    if gone:
        from envtool.pypi.uv import uninstall

        uninstall(gone, transaction.prefix.path)


def _install_wheels(shared: SharedPaths, wheels: Sequence[LockedPackage]) -> None:
    from envtool.pypi.uv import install  # many environments have none

    prefix = shared.transaction.prefix.path
    with shared.transaction.display.task(f"install {len(wheels)} wheels"):
        for number, layer in enumerate(shared.layers(wheels)):
            for path in shared.lost_to(layer):
                _delete(prefix, path)
            with _scratch(shared, f"wheels-{number}") as scratch:
                by_name = {f"{wheel.name}=={wheel.version}": wheel for wheel in layer}
                paths = {name: shared.proven[wheel.url] for name, wheel in by_name.items()}
                hashes = {name: require_sha256(wheel) for name, wheel in by_name.items()}
                install(paths, hashes, prefix, scratch)


@contextmanager
def _scratch(shared: SharedPaths, name: str) -> Iterator[Path]:
    # Fresh and on the same file system: extracted files are hard-linked into the prefix, and with the directory gone
    # no other environment and no cache shares them, so that an edit in one environment cannot reach another.
    path = shared.transaction.prefix.meta / ".scratch" / name
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
