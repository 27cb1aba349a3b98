"""Every file of a prefix as it is now, with the prefix in its content put back to the archive's *placeholder*, so that
what was linked right has the hash that its archive declares, anywhere; and the env digest over all of them, which
docs/reference/env-digest.md defines: a change here is a change there."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from envtool.artifacts.relocation import PREFIX_TEXT, Placeholder, restore, without_rewritten
from envtool.prefix.bytecode import source_of

# Device and number.
Inode = tuple[int, int]
_META = "conda-meta"
_encode = json.JSONEncoder(separators=(",", ":")).encode
_CHUNK_BYTES = 1 << 20
_RECORD_SUFFIX = ".dist-info/RECORD"


class Entry(NamedTuple):
    """One file or link of a prefix."""

    path: str
    kind: str
    is_executable: bool
    sha256: str  # hash of the normalized content, or of the target of a link
    size_bytes: int
    names_prefix: bool = False  # whether the content on disk names the prefix


class Written(NamedTuple):
    """A file as it was written."""

    sha256: str
    size_bytes: int
    mtime_ns: int  # whoever writes to the file sets another one


@dataclass(frozen=True)
class Known:
    """Files that this process just wrote, none of which names the prefix."""

    placed: Mapping[str, Entry] = field(default_factory=dict)
    # Those that were given their place by another program, by device and inode: the file itself, under whatever name,
    # and no copy of it.
    written: Mapping[Inode, Written] = field(default_factory=dict)

    def find(self, name: str, status: os.stat_result) -> Entry | None:
        """The file, if nothing of what the kernel states of it has changed."""
        if not stat.S_ISREG(status.st_mode):
            return None
        is_executable = bool(status.st_mode & stat.S_IXUSR)
        entry = self.placed.get(name)
        if entry is not None and (entry.size_bytes, entry.is_executable) == (status.st_size, is_executable):
            return entry
        file = self.written.get((status.st_dev, status.st_ino))
        if file is not None and (file.size_bytes, file.mtime_ns) == (status.st_size, status.st_mtime_ns):
            return Entry(name, "file", is_executable, file.sha256, file.size_bytes)
        return None


def scan(
    prefix: Path, placeholders: Mapping[str, Placeholder], known: Known | None = None, named: Path | None = None
) -> dict[str, Entry]:
    """Read every file of a prefix but those in conda-meta, on all cores (`named`: the path in their content)."""
    # The largest first and dealt out, so that no core is left alone with one of them at the end.
    found = sorted(walk(str(prefix)), key=lambda each: each[1].st_size, reverse=True)
    known = known or Known()
    needle = os.fsencode(named or prefix)
    count = os.cpu_count() or 1

    def share(start: int) -> list[Entry]:
        return [
            known.find(name, status) or _entry(prefix, name, status, needle, placeholders.get(name))
            for name, status in found[start::count]
        ]

    with ThreadPoolExecutor(count) as pool:
        shares = pool.map(share, range(count))
        entries = {entry.path: entry for entry in sorted(itertools.chain(*shares), key=lambda entry: entry.path)}
    for path, entry in entries.items():
        # Byte-code of a module that names the prefix holds the hash of that module and the prefix in strings with their
        # lengths, so that it differs in every directory. It counts as its source does.
        source = source_of(path)
        if source in placeholders and source in entries:
            entries[path] = entry._replace(sha256=entries[source].sha256)
    return entries


def env_digest(entries: Iterable[Entry]) -> str:
    """One sha256 over path, kind, executable bit and normalized content of every entry, sorted by path."""
    digest = hashlib.sha256()
    for entry in sorted(entries, key=lambda each: each.path.encode()):
        line = _encode([entry.path, entry.kind, entry.is_executable, entry.sha256])
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def walk(root: str, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Every file and link of a prefix but those in conda-meta, and what the kernel states of it."""
    with os.scandir(os.path.join(root, below)) as entries:  # noqa: PTH118 - a Path for each of 30,000 files is slow
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                if name != _META:
                    yield from walk(root, name)
            else:
                yield name, entry.stat(follow_symlinks=False)


def _entry(prefix: Path, name: str, status: os.stat_result, needle: bytes, placeholder: Placeholder | None) -> Entry:
    path = os.path.join(prefix, name)  # noqa: PTH118 - a Path for each of 30,000 files is slow
    if stat.S_ISLNK(status.st_mode):
        target = os.fsencode(os.readlink(path)).replace(needle, PREFIX_TEXT)  # noqa: PTH115
        return Entry(name, "link", False, hashlib.sha256(target).hexdigest(), status.st_size)
    is_executable, is_record = bool(status.st_mode & stat.S_IXUSR), name.endswith(_RECORD_SUFFIX)
    sha256 = None if is_record else _sha256_without(path, needle)
    if sha256 is not None:
        return Entry(name, "file", is_executable, sha256, status.st_size)
    content = Path(path).read_bytes()
    normalized = without_rewritten(content, needle) if is_record else restore(content, needle, placeholder)
    names_prefix = not is_record or needle in content
    return Entry(name, "file", is_executable, hashlib.sha256(normalized).hexdigest(), status.st_size, names_prefix)


def _sha256_without(path: str, needle: bytes) -> str | None:
    """The sha256 of a file, None if the needle is in it; in one pass and in little memory, whatever its size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, _CHUNK_BYTES)
        if needle in content:
            return None
        digest = hashlib.sha256(content)
        last = len(needle) - 1
        while following := os.read(descriptor, _CHUNK_BYTES):
            # A needle may lie across the two.
            if needle in content[-last:] + following[:last] or needle in following:
                return None
            digest.update(following)
            content = following if len(following) >= last else content[-last:] + following
        return digest.hexdigest()
    finally:
        os.close(descriptor)
