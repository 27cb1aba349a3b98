"""What says that an entry of the store was hashed since the machine started, and was not changed since."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from pathlib import Path

from serve import durable_files

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def holds(directory: Path, sha256: str, seen: os.stat_result) -> bool:
    """Whether an entry is as it was when it was proven, in this boot."""
    try:
        proof: object = json.loads((directory / sha256).read_bytes())
    except (OSError, ValueError):
        return False
    return proof == _describe(seen)


def write(directory: Path, path: Path) -> None:
    """Note that an entry was just hashed, and is what its name says."""
    with contextlib.suppress(OSError):  # without it the entry is only proven again
        # Good for this boot only, so that it need not survive a power cut.
        durable_files.replace_file(directory / path.name, json.dumps(_describe(path.stat())).encode(), is_lasting=False)


def _describe(seen: os.stat_result) -> list[object]:
    # Not the ctime: it changes with each use. Who sets back an mtime on purpose can forge a proof as well.
    return [_read_boot_id(), seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns]


@functools.cache
def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
