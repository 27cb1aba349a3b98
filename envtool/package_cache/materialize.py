"""Unpacked packages placed into a prefix, every file cloned or copied. Source: ioctl_ficlonerange(2),
copy_file_range(2)."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envtool.artifacts.relocation import PREFIX_TEXT, replace_text, substitute, with_rewritten
from envtool.atomic_files import create, write_all
from envtool.lockfile.model import LockedPackage
from envtool.package_cache.store import PACK, CacheEntry, StoredFile
from envtool.prefix.conda_meta import channel_of, set_md5
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


@dataclass(frozen=True)
class Placement:
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
