"""Unpacked packages found in the cache, or taken from a prefix that was just made and proven. One of which anything is
unclear (a file that two bring, that linking renamed, or whose text has both prefix and placeholder) gets no image."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envtool import console
from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import Declared
from envtool.artifacts.relocation import PREFIX_TEXT, replace_text, restore, substitute
from envtool.atomic_files import create, write_all
from envtool.lockfile.model import LockedPackage
from envtool.package_cache.materialize import Placement, clone, fill_meta, fill_record, reader
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
from envtool.prefix.conda_meta import recorded_files
from envtool.prefix.scan import Entry

_LARGE_BYTES = 1 << 17
_RECORD = ".dist-info/RECORD"


class _UnclearError(Exception):
    """Why a package gets no image."""


@dataclass(frozen=True)
class Made:
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
        self,
        made: Made,
        store: PackageCache,
        package: LockedPackage,
        paths: Sequence[str],
        record: Mapping[str, Any] | None,
    ) -> None:
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
                    links[path] = self._link(path)
                elif (file := self._file(path, self._made.entries[path])) is not None:
                    files.append(file)
        finally:
            os.close(self._pack)
        record = self._record(self._meta) if self._meta is not None else None
        return CacheEntry(tuple(files), links, record, pack_sha256=self._digest.hexdigest())

    def _link(self, path: str) -> str:
        target = os.fsencode((self._made.prefix / path).readlink())
        if PREFIX_TEXT in target:
            raise _UnclearError(path)
        return os.fsdecode(target.replace(self._prefix, PREFIX_TEXT))

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
