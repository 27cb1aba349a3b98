"""Changes in a prefix: packages unpacked or linked, wheels installed, untracked files removed, byte-code compiled. An
archive is read once: for its files, its manifest, and the proof that the prefix holds these files."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from envtool.artifacts.conda_archive import DAMAGED, STATED, Member, bounded, open_part, read_member
from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import old_listing, require_plain_paths
from envtool.atomic_files import create, write_all
from envtool.console import Task
from envtool.errors import ArchiveError
from envtool.install.link_scripts import run_link_scripts
from envtool.install.preconditions import stated_bytes
from envtool.install.shared_paths import SharedPaths
from envtool.lockfile.model import LockedPackage
from envtool.package_cache.unpacked import Placement, place
from envtool.prefix.bytecode import compile_all, source_of
from envtool.prefix.rattler import LinkRequest, link
from envtool.prefix.scan import Entry, Inode, Known, Written

if TYPE_CHECKING:
    from envtool.install.create import Transaction

# What a package may bring beside what its paths.json lists.
_SLACK_BYTES = 64 << 20


class Unpacked(NamedTuple):
    """What was unpacked from one archive."""

    payload: Sequence[Member]
    info: Mapping[str, bytes]  # the content of those files of `info/` that a manifest is made of
    written: Mapping[Inode, Written]  # its files that do not name the prefix, by device and inode


def unpack(archives: Mapping[Path, Path], prefix: Path, task: Task) -> dict[Path, Unpacked]:
    """Unpack proven archives, several at a time. Raises ArchiveError if one is not valid or a path escapes."""
    stopped = threading.Event()
    # The largest first, so that no core is left alone with one of them at the end.
    ordered = sorted(archives, key=lambda each: -each.stat().st_size)
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="unpack") as pool:
        futures = {
            pool.submit(_Unpacking(each, archives[each], os.fsencode(prefix), stopped).run): each for each in ordered
        }
        try:
            for done in as_completed(futures):
                done.result()
                task.advance()
        finally:
            stopped.set()  # on Ctrl-C the pool waits for its threads
            for each in futures:
                each.cancel()
    return {archive: future.result() for future, archive in futures.items()}


def linked(directory: Path, written: Mapping[Inode, Written]) -> dict[Inode, Written]:
    """Those of the unpacked files that have another name by now: the number of any other may soon be a new file's."""
    found = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            status = os.lstat(f"{parent}/{name}")  # a Path for each of 30,000 files is slow
            inode = status.st_dev, status.st_ino
            if status.st_nlink > 1 and inode in written:
                found[inode] = written[inode]
    return found


class _Unpacking:
    def __init__(self, archive: Path, directory: Path, needle: bytes, stopped: threading.Event) -> None:
        self._archive = archive
        self._root = str(directory)
        self._needle = needle
        self._stopped = stopped
        self._directories: set[str] = set()
        self._members: dict[str, Member] = {}
        self._written: dict[Inode, Written] = {}
        self._payload_bytes = 0
        stated = stated_bytes(archive)
        self._most_bytes = None if stated is None else stated + stated // 4 + _SLACK_BYTES

    def run(self) -> Unpacked:
        # A .tar.bz2 has both parts in one.
        for part in ("info", "pkg") if self._archive.name.endswith(".conda") else ("pkg",):
            try:
                with open_part(self._archive, part) as tar:
                    for info in bounded(self._archive, tar):
                        self._unpack(tar, info)
            except OSError as error:
                # Two members in one place, one below a link or a file, or, without a number, no data of bz2.
                if error.errno in (None, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
                    raise ArchiveError(f"{self._archive} cannot be unpacked: {error}") from error
                raise
            except DAMAGED as error:
                raise ArchiveError(f"{self._archive} is not a valid package archive: {error}") from error
        payload = [each for name, each in self._members.items() if not name.startswith("info/")]
        found = ((name, Path(self._root, "info", name)) for name in STATED)
        stated = {name: path.read_bytes() for name, path in found if path.is_file()}
        if "index.json" in stated and "paths.json" not in stated:
            stated["paths.json"] = old_listing(payload, stated)
            Path(self._root, "info", "paths.json").write_bytes(stated["paths.json"])
        return Unpacked(payload, stated, self._written)

    def _unpack(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        path = self._place(info.name)
        if info.isdir():
            self._make(path)
            return
        self._payload_bytes += 0 if info.name.startswith("info/") else info.size
        if self._most_bytes is not None and self._payload_bytes > self._most_bytes:
            message = f"{self._archive} unpacks to far more than info/paths.json states: {info.name} is too large"
            raise ArchiveError(message)
        self._make(path.rpartition("/")[0])
        if info.name in self._members:  # the later one counts, as with every program that unpacks
            Path(path).unlink()
        if info.isreg():
            self._members[info.name] = self._write(tar, info, path)
            return
        if info.issym():
            Path(path).symlink_to(info.linkname)
        elif info.islnk():
            os.link(self._place(info.linkname), path, follow_symlinks=False)
        else:
            raise ArchiveError(f"{self._archive}: {info.name} is neither a file nor a link")
        self._members[info.name] = read_member(tar, info, self._members)

    def _write(self, tar: tarfile.TarFile, info: tarfile.TarInfo, path: str) -> Member:
        descriptor, tail, names_prefix = create(path, info.mode & 0o777), b"", False

        def write(content: bytes) -> None:
            nonlocal tail, names_prefix
            if self._stopped.is_set():
                raise InterruptedError("stopped")
            write_all(descriptor, content)
            last = len(self._needle) - 1
            # A needle may lie across two pieces.
            if self._needle in content or self._needle in tail + content[:last]:
                names_prefix = True
            tail = (tail + content)[-last:] if len(content) < last else content[-last:]

        try:
            member = read_member(tar, info, self._members, write)
            os.utime(descriptor, (info.mtime, info.mtime))
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        inode = status.st_dev, status.st_ino
        if names_prefix:
            self._written.pop(inode, None)  # of a member that this one takes the place of
        else:
            self._written[inode] = Written(member.normalized_sha256, status.st_size, status.st_mtime_ns)
        return member

    def _place(self, name: str) -> str:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ArchiveError(f"{self._archive}: {name}: path escapes the package")
        return "/".join((self._root, *path.parts))

    def _make(self, directory: str) -> None:
        if directory in self._directories:
            return
        if directory != self._root:
            self._make(directory.rpartition("/")[0])
        Path(directory).mkdir()  # fails for a link, below which everything would be written elsewhere
        self._directories.add(directory)


def apply(
    transaction: Transaction, placements: Sequence[Placement], proven: Mapping[str, Path]
) -> tuple[Known, tuple[str, ...]]:
    """Change a prefix, which is locked and marked incomplete. Returns the files that need not be read back, and what
    link scripts left for people. Raises EnvtoolError if something cannot be installed, SharedPathsError if a path that
    the plan does not make anew is shared with something that it changes."""
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
        placed: dict[str, Entry] = {}
        if placements:
            with transaction.display.task(f"place {len(placements)} unpacked packages"):
                placed = place(placements, prefix.path)
        if archives or (plan.removes("conda") and not plan.starts_over):
            written = _link(shared, archives)
        if wheels or not plan.starts_over:
            shared.require_settled()
        again = {package.name for package in plan.installs("pip")}
        gone = [package.name for package in plan.removes("pip") if package.name not in again]
        if gone and not plan.starts_over:
            from envtool.pypi.uv import uninstall  # many environments have no wheels

            uninstall(gone, prefix.path)
        if wheels:
            _install_wheels(shared, wheels)
        messages = run_link_scripts(transaction) if transaction.request.link_scripts() else ()
        has_python = any((package.manager, package.name) == ("conda", "python") for package in transaction.wanted)
        if has_python and prefix.python.exists():
            with transaction.display.task("compile byte-code"):
                kept = [path for path in placed if source_of(path)]
                compile_all(prefix.path, prefix.python, kept)
    return Known(placed, written), messages


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
            archive = proven[package.url]
            found = unpacked[archive]
            transaction.manifests.keep_archive(require_sha256(package), archive, found.payload, found.info)
            written.update(found.written)
            requests.append(LinkRequest(package, archive, directories[archive]))
        shared.require_settled()
        for package in new:
            shared.yield_paths(package, directories[proven[package.url]])
        link(requests, kept, prefix.path, transaction.request.platform, scratch)
        shared.make_directories(new)
        return linked(scratch, written)


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
