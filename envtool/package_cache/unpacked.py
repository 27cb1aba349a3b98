"""Unpacked packages: taken from a prefix that was just made and proven, and placed into others, every file cloned or
copied. One of which anything is unclear (a file that two bring, that linking renamed, or whose text has both prefix and
placeholder) gets no image. Source: ioctl_ficlonerange(2), copy_file_range(2)."""

from __future__ import annotations

import base64
import collections
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from envtool import console
from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import Declared
from envtool.artifacts.relocation import PREFIX_TEXT, replace_text, restore, substitute, with_rewritten
from envtool.atomic_files import create, write_all
from envtool.lockfile.model import LockedPackage
from envtool.package_cache.store import (
    PACK,
    SETTING,
    CacheEntry,
    PackageCache,
    StoredFile,
    depends_on_python,
    image_key,
)
from envtool.prefix.bytecode import source_of
from envtool.prefix.conda_meta import channel_of, recorded_files, set_md5
from envtool.prefix.scan import Entry

_SHARE = 500
_FICLONE = 0x40049409
_STEP_BYTES = 1 << 28
_BUFFER_BYTES = 1 << 20
# What kernels and file systems say when they cannot, or not between these two.
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EBADF, errno.EPERM)


def clone(source: str, target: str, mode: int) -> bool:
    """Make a file with the content of another; whether they share their blocks, so that nothing was copied."""
    with contextlib.ExitStack() as stack:
        reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, reading)
        writing = create(target, mode)
        stack.callback(os.close, writing)
        try:
            fcntl.ioctl(writing, _FICLONE, reading)
            return True
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        _copy(reading, writing)
        return False


def _copy(reading: int, writing: int) -> None:
    if hasattr(os, "copy_file_range"):  # not in every build of Python 3.9
        try:
            while os.copy_file_range(reading, writing, _STEP_BYTES):
                pass
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        # Some file systems end early without an error; whatever is left is copied as everywhere.
    while content := os.read(reading, _BUFFER_BYTES):
        write_all(writing, content)


class Placement(NamedTuple):
    """One package to be placed."""

    package: LockedPackage
    image: CacheEntry
    stored: Path


def place(placements: Sequence[Placement], prefix: Path) -> dict[str, Entry]:
    """Place packages into a prefix that has none of their files; returns those whose content is as stored."""
    paths = [path for each in placements for path in (*(file.path for file in each.image.files), *each.image.links)]
    for directory in sorted({path.rpartition("/")[0] for path in paths}):
        (prefix / directory).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        # The large ones first, so that no core is left alone with one of them at the end.
        cloned = sorted(
            ((file, each) for each in placements for file in each.image.files if file.offset is None),
            key=lambda pair: -pair[0].size_bytes,
        )
        work: list[Future[Any]] = [
            pool.submit(clone, str(each.stored / file.sha256), f"{prefix}/{file.path}", file.mode)
            for file, each in cloned
        ]
        for each in placements:
            packed = [file for file in each.image.files if file.offset is not None]
            shares = [packed[start : start + _SHARE] for start in range(0, len(packed), _SHARE)]
            work += [pool.submit(_write, share, each, prefix) for share in shares]
        for done in work:
            done.result()
    for placement in placements:
        _finish(placement, prefix)
    files = (file for each in placements for file in each.image.files if not file.rewrite)
    return {
        file.path: Entry(file.path, "file", bool(file.mode & 0o100), file.sha256, file.size_bytes) for file in files
    }


def _write(files: Sequence[StoredFile], placement: Placement, prefix: Path) -> None:
    root, name = str(prefix), os.fsencode(prefix)
    pack = os.open(placement.stored / PACK, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for file in files:
            content = os.pread(pack, file.size_bytes, file.offset or 0)
            if file.rewrite in ("prefix", "text", "binary"):
                content = substitute(content, name, file.declared())
            descriptor = create(f"{root}/{file.path}", file.mode)
            try:
                write_all(descriptor, content)
            finally:
                os.close(descriptor)
    finally:
        os.close(pack)


def _finish(placement: Placement, prefix: Path) -> None:
    for path, target in placement.image.links.items():
        (prefix / path).symlink_to(target.replace(PREFIX_TEXT.decode(), str(prefix)))
    for file in placement.image.files:
        if file.rewrite == "record":
            record = prefix / file.path
            record.write_bytes(fill_record(record.read_bytes(), reader(record.parent.parent)))
    if placement.image.record is not None:
        content = fill_meta(placement.image.record, placement.package, prefix)
        name = f"{content['name']}-{content['version']}-{content['build']}.json"
        (prefix / "conda-meta" / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def reader(root: Path) -> Callable[[str], bytes]:
    """Reads files by their paths below a directory."""
    return lambda path: (root / path).read_bytes()


def fill_record(content: bytes, read: Callable[[str], bytes]) -> bytes:
    """RECORD with the hashes of the scripts of this prefix, which are read by their paths from site-packages."""

    def describe(path: bytes) -> bytes:
        script = read(os.fsdecode(path))
        digest = base64.urlsafe_b64encode(hashlib.sha256(script).digest()).rstrip(b"=")
        return b"sha256=%s,%d" % (digest, len(script))

    return with_rewritten(content, describe)


def fill_meta(record: Mapping[str, Any], package: LockedPackage, prefix: Path) -> dict[str, Any]:
    """A record of conda-meta for this prefix."""
    content: dict[str, Any] = replace_text(record, PREFIX_TEXT.decode(), str(prefix))
    content.update(url=package.url, channel=channel_of(package.url), fn=package.file_name)
    set_md5(content, package.md5)
    for path in content["paths_data"]["paths"]:
        describe_path(path, reader(prefix))
    return content


def describe_path(path: dict[str, Any], read: Callable[[str], bytes]) -> None:
    """Note in an entry of a record what linking wrote, which is read by its path in the prefix."""
    is_made = path.get("path_type") == "unix_python_entry_point"
    if not is_made and not (path.get("prefix_placeholder") and "sha256_in_prefix" in path):
        return
    content = read(path["_path"])
    sha256 = hashlib.sha256(content).hexdigest()
    path.update({"sha256": sha256, "size_in_bytes": len(content)} if is_made else {"sha256_in_prefix": sha256})


_LARGE_BYTES = 1 << 17
_RECORD = ".dist-info/RECORD"


class _UnclearError(Exception):
    """Why a package gets no image."""


class Made(NamedTuple):
    """A prefix that was just made and proven."""

    prefix: Path
    declared: Mapping[str, Declared]
    entries: Mapping[str, Entry]
    since_ns: int  # when the reading began, so that a file changed since then is not taken for what was read
    shared: Collection[tuple[str, str]] = ()


def _capture(made: Made, packages: Mapping[str, LockedPackage], contents: _Contents, store: PackageCache) -> None:
    for key, package in packages.items():
        with suppress(_UnclearError):
            files = contents.of(package)
            # Half of what is free at most: a cache should not be what fills a disk.
            place = next(each for each in (store.root, *store.root.parents) if each.exists())
            if sum(made.entries[path].size_bytes for path in files) * 2 > shutil.disk_usage(place).free:
                raise _UnclearError("too little room")
            record = contents.records[package.name] if package.manager == "conda" else None
            store.keep(key, _Taking(made, store, package, files, record).take)


class _Contents:
    """Which files of a prefix belong to which package."""

    def __init__(self, made: Made, packages: Sequence[LockedPackage]) -> None:
        self._made = made
        paths = sorted((made.prefix / "conda-meta").glob("*.json"))
        self.records = {record["name"]: record for record in (json.loads(path.read_bytes()) for path in paths)}
        self._declared: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
        for path, file in made.declared.items():
            self._declared[file.package].add(path)
        self._byte_code: dict[str, list[str]] = collections.defaultdict(list)
        for path in made.entries:
            if source := source_of(path):
                self._byte_code[source].append(path)
        self._listed = {(package.manager, package.name): self._list(package) for package in packages}
        self._owners = collections.Counter(path for paths in self._listed.values() for path in paths)

    def of(self, package: LockedPackage) -> list[str]:
        """The files of a package that are there, byte-code included. Raises _UnclearError if it is unclear."""
        key = package.manager, package.name
        listed, declared = self._listed[key], self._declared[key]
        strange = [path for path in listed - declared if not self._is_generated(package, path)]
        if not listed or strange or not declared <= listed or any(self._owners[path] > 1 for path in listed):
            raise _UnclearError(f"the files of {package.name}")
        if not listed <= self._made.entries.keys():
            raise _UnclearError(f"a file of {package.name} is missing")
        byte_code = (
            [path for source in listed for path in self._byte_code[source]] if depends_on_python(package) else []
        )
        return sorted([*listed, *byte_code])

    def _list(self, package: LockedPackage) -> set[str]:
        if package.manager == "conda":
            listed = self.records.get(package.name, {}).get("files", ())
        else:
            notes = [path for path in self._declared["pip", package.name] if path.endswith(_RECORD)]
            listed = [path for record in notes for path in recorded_files(self._made.prefix, record)]
        return {path for path in listed if source_of(path) is None and not path.endswith(".pyc")}

    def _is_generated(self, package: LockedPackage, path: str) -> bool:
        if package.manager == "pip":
            return path.startswith("bin/") or ".dist-info/" in path
        return path in {
            each["_path"]
            for each in self.records[package.name]["paths_data"]["paths"]
            if each.get("path_type") == "unix_python_entry_point"
        }


class _Taking:
    """Writes the files of one package into the directory of an image."""

    def __init__(
        self, made: Made, store: PackageCache, package: LockedPackage, paths: Sequence[str],
        record: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        self._made, self._store, self._package, self._paths, self._meta = made, store, package, paths, record
        self._prefix = os.fsencode(made.prefix)
        self._digest = hashlib.sha256()
        self._packed_bytes = 0

    def take(self, place: Path) -> CacheEntry:
        files, links = [], {}
        self._place = place
        self._pack = create(str(place / PACK), 0o444)
        try:
            for path in self._paths:
                if self._made.entries[path].kind == "link":
                    target = os.fsencode((self._made.prefix / path).readlink())
                    if PREFIX_TEXT in target:
                        raise _UnclearError(path)
                    links[path] = os.fsdecode(target.replace(self._prefix, PREFIX_TEXT))
                elif (file := self._file(path, self._made.entries[path])) is not None:
                    files.append(file)
        finally:
            os.close(self._pack)
        record = self._record(self._meta) if self._meta is not None else None
        return CacheEntry(tuple(files), links, record, pack_sha256=self._digest.hexdigest())

    def _file(self, path: str, entry: Entry) -> StoredFile | None:
        source = self._made.prefix / path
        status = source.stat()
        if status.st_ctime_ns >= self._made.since_ns or status.st_size != entry.size_bytes:
            raise _UnclearError(f"{path} was changed meanwhile")
        mode = status.st_mode & 0o777
        if path.endswith(_RECORD):
            return self._record_file(path, mode, source)
        module = source_of(path)
        if module is not None and (entry.names_prefix or self._made.entries[module].names_prefix):
            return None  # compiled anew for each prefix
        if entry.names_prefix:
            return self._rewritten(path, mode, source.read_bytes())
        if entry.size_bytes < _LARGE_BYTES:
            return self._packed(StoredFile(path, mode, entry.sha256, entry.size_bytes), source.read_bytes())
        target = self._place / entry.sha256
        if not target.exists() and not clone(str(source), str(target), 0o444) and self._store.clones_only:
            raise _UnclearError("the file system makes no clones")
        return StoredFile(path, mode, entry.sha256, entry.size_bytes)

    def _rewritten(self, path: str, mode: int, content: bytes) -> StoredFile:
        declared = self._made.declared.get(path)
        placeholder = declared.placeholder if declared else None
        stored = restore(content, self._prefix, placeholder)
        if substitute(stored, self._prefix, placeholder) != content:
            raise _UnclearError(f"{path} names what stands for the prefix")
        kind = "prefix" if placeholder is None else "binary" if placeholder.is_binary else "text"
        text = "" if placeholder is None else placeholder.text.decode()
        return self._packed(StoredFile(path, mode, "", 0, rewrite=kind, placeholder=text), stored)

    def _record_file(self, path: str, mode: int, source: Path) -> StoredFile:
        content = source.read_bytes()
        if self._prefix in content:
            raise _UnclearError(f"{path} names the prefix")
        if self._made.declared[path].package[0] == "conda":  # stays as the archive has it
            return self._packed(StoredFile(path, mode, "", 0, rewrite="kept"), content)
        if fill_record(content, reader(source.parent.parent)) != content:
            raise _UnclearError(f"{path} cannot be written again")
        return self._packed(StoredFile(path, mode, "", 0, rewrite="record"), content)

    def _packed(self, file: StoredFile, content: bytes) -> StoredFile:
        sha256 = hashlib.sha256(content).hexdigest()
        if file.sha256 not in ("", sha256):
            raise _UnclearError(f"{file.path} was changed meanwhile")
        write_all(self._pack, content)
        self._digest.update(content)
        offset = self._packed_bytes
        self._packed_bytes += len(content)
        return StoredFile(file.path, file.mode, sha256, len(content), offset, file.rewrite, file.placeholder)

    def _record(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        stored: dict[str, Any] = replace_text(record, str(self._made.prefix), PREFIX_TEXT.decode())
        if fill_meta(stored, self._package, self._made.prefix) != record:
            raise _UnclearError(f"the record of {self._package.name} cannot be written again")
        return stored


def find_placements(wanted: Sequence[LockedPackage], store: PackageCache) -> list[Placement]:
    """The packages that the store has an image of."""
    if not store.is_used:
        return []
    found = ((package, key, store.find(key)) for key, package in _keys(wanted).items())
    return [Placement(package, image, store.path(key)) for package, key, image in found if image is not None]


def forget(wanted: Sequence[LockedPackage], store: PackageCache) -> None:
    """Drop the images of packages, so that they are made anew from their archives."""
    for key in _keys(wanted):
        if store.path(key).exists():
            store.drop(key)


def remember(made: Made, wanted: Sequence[LockedPackage], store: PackageCache) -> None:
    """Keep the images of packages that the store has none of; what cannot be kept is only said."""
    keys = _keys(wanted) if store.is_used else {}
    alone = {key: package for key, package in keys.items() if (package.manager, package.name) not in made.shared}
    new = {key: package for key, package in alone.items() if not store.path(key).exists()}
    if not new:
        return
    try:
        _capture(made, new, _Contents(made, list(keys.values())), store)
    except OSError as error:
        reason = error.strerror or str(error)
        console.warn(f"unpacked packages cannot be kept in {store.root}: {reason}", f"{SETTING}=never does without")


def _keys(wanted: Sequence[LockedPackage]) -> dict[str, LockedPackage]:
    python = next((each for each in wanted if each.manager == "conda" and each.name == "python"), None)
    python_sha256 = require_sha256(python) if python else ""
    return {image_key(each, python_sha256): each for each in wanted}
