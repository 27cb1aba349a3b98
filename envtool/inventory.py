"""Every file of a prefix as it is now, with the prefix's own path taken out of the content; and the env digest over it.

A package's archive holds a *placeholder* wherever a file names its prefix; linking replaces it. Here it is put back, so
that a file that was linked right has exactly the hash that its archive declares, in every directory and on every
machine. The definition of the env digest stands in docs/reference/env-digest.md; a change here is a change there.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from envtool.bytecode import source_of

# Stands for the prefix in files that declare no placeholder of their own, such as the scripts that wheels bring.
PREFIX_TEXT = b"/envserve/prefix"
_META = "conda-meta"
_CHUNK_BYTES = 1 << 20
_RECORD_SUFFIX = ".dist-info/RECORD"


@dataclass(frozen=True)
class Placeholder:
    """What a package's archive says in place of the prefix.

    Args:
        text: The placeholder.
        is_binary: Whether the file is binary, so that the string was padded with NUL bytes to keep its length.
    """

    text: bytes
    is_binary: bool


@dataclass(frozen=True)
class Entry:
    """One file or link of a prefix.

    Args:
        path: Relative to the prefix, with `/`.
        kind: `file` or `link`.
        is_executable: Whether its owner may execute it; False for links.
        sha256: Hash of the normalized content, or of the target of a link.
        size_bytes: Size on disk.
    """

    path: str
    kind: str
    is_executable: bool
    sha256: str
    size_bytes: int


def scan(prefix: Path, placeholders: Mapping[str, Placeholder]) -> dict[str, Entry]:
    """Read every file of a prefix but those in conda-meta, on all cores.

    Args:
        prefix: The prefix.
        placeholders: The declared placeholder of each path that has one.

    Returns:
        Path to entry, sorted by path.
    """
    # The largest first, so that no core is left alone with one of them at the end.
    names = [name for _, name in sorted(_walk(str(prefix), ""), reverse=True)]
    needle = os.fsencode(prefix)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = pool.map(lambda name: _entry(prefix, name, needle, placeholders.get(name)), names)
        entries = {entry.path: entry for entry in sorted(found, key=lambda entry: entry.path)}
    return {path: _without_source(entry, placeholders, entries) for path, entry in entries.items()}


def env_digest(entries: Iterable[Entry]) -> str:
    """One sha256 over path, kind, executable bit and normalized content of every entry, sorted by path."""
    digest = hashlib.sha256()
    for entry in sorted(entries, key=lambda each: each.path.encode()):
        line = json.dumps([entry.path, entry.kind, entry.is_executable, entry.sha256], separators=(",", ":"))
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _without_source(entry: Entry, placeholders: Mapping[str, Placeholder], entries: Mapping[str, Entry]) -> Entry:
    # Byte-code of a module that names the prefix holds the hash of that module and the prefix in strings with their
    # lengths, so that it differs in every directory. It counts as its source does.
    source = source_of(entry.path)
    if source is None or source not in placeholders or source not in entries:
        return entry
    return replace(entry, sha256=entries[source].sha256)


def _walk(root: str, below: str) -> Iterator[tuple[int, str]]:
    with os.scandir(os.path.join(root, below)) as entries:  # noqa: PTH118 - a Path for each of 30,000 files is slow
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                if name != _META:
                    yield from _walk(root, name)
            else:
                yield entry.stat(follow_symlinks=False).st_size, name


def _entry(prefix: Path, name: str, needle: bytes, placeholder: Placeholder | None) -> Entry:
    path = prefix / name
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        target = os.fsencode(path.readlink()).replace(needle, PREFIX_TEXT)
        return Entry(name, "link", False, hashlib.sha256(target).hexdigest(), status.st_size)
    is_executable = bool(status.st_mode & stat.S_IXUSR)
    return Entry(name, "file", is_executable, _normalized_sha256(path, name, needle, placeholder), status.st_size)


def _normalized_sha256(path: Path, name: str, needle: bytes, placeholder: Placeholder | None) -> str:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return hashlib.sha256().hexdigest()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if name.endswith(_RECORD_SUFFIX):
                return hashlib.sha256(_without_rewritten(content[:], needle)).hexdigest()
            if content.find(needle) < 0:
                return _sha256(content)
            return hashlib.sha256(restore(content[:], needle, placeholder)).hexdigest()


def _sha256(content: mmap.mmap) -> str:
    digest = hashlib.sha256()
    with memoryview(content) as view:
        for start in range(0, len(view), _CHUNK_BYTES):
            with view[start : start + _CHUNK_BYTES] as chunk:
                digest.update(chunk)
    return digest.hexdigest()


def restore(content: bytes, prefix: bytes, placeholder: Placeholder | None) -> bytes:
    """Take the prefix out of a file's content again: the inverse of what linking does.

    Args:
        content: The file as it is in the prefix.
        prefix: The path of the prefix.
        placeholder: What the archive declares, None for files that declare nothing.

    Returns:
        The content with the placeholder, equal to the archive's when the file is as it was linked.
    """
    if placeholder is None:
        return content.replace(prefix, PREFIX_TEXT)
    if not placeholder.is_binary:
        return content.replace(prefix, placeholder.text)
    return _restore_binary(content, prefix, placeholder.text)


def _restore_binary(content: bytes, prefix: bytes, placeholder: bytes) -> bytes:
    # A C string that names the prefix was shortened in place and the rest filled with NUL bytes: each prefix in the
    # string took `missing` bytes away, which stand after its end.
    missing = len(placeholder) - len(prefix)
    pieces = []
    at = 0
    while (found := content.find(prefix, at)) >= 0:
        end = content.find(b"\0", found)
        end = len(content) if end < 0 else end
        string = content[found:end]
        pieces += [content[at:found], string.replace(prefix, placeholder)]
        at = end + missing * string.count(prefix)
    return b"".join([*pieces, content[at:]])


def _without_rewritten(record: bytes, prefix: bytes) -> bytes:
    # RECORD holds the hash of the scripts outside of site-packages, and installing writes the prefix into those.
    lines = record.replace(prefix, PREFIX_TEXT).split(b"\n")
    return b"\n".join(line.split(b",", 1)[0] + b",," if line.startswith(b"../") else line for line in lines)
