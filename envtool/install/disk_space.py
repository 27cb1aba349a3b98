"""Room on the disk: how much archives and wheels take once they are unpacked, asked before a prefix is touched."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from envtool.artifacts import stated_paths
from envtool.artifacts.conda_archive import parse_info, read_info
from envtool.console import size
from envtool.errors import DiskSpaceError

# Byte-code, directory entries and the blocks that small files do not fill: about an eighth on top, by measurement.
_OVERHEAD = 1.125
# What an archive that nobody has seen comes to once it is unpacked.
UNPACKED_FACTOR = 4


def unpacked_bytes(archive: Path) -> int:
    """How many bytes the files of an archive or wheel hold, guessed where it does not state it. Raises ArchiveError if
    it is neither."""
    stated = stated_bytes(archive)
    return archive.stat().st_size * UNPACKED_FACTOR if stated is None else stated


@lru_cache(maxsize=1024)
def stated_bytes(archive: Path) -> int | None:
    """How many bytes the files of an archive or wheel hold, as it states itself; None where it is from before
    `paths.json`. Raises ArchiveError if it is neither."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return sum(member.file_size for member in wheel.infolist())
    info = read_info(archive, ["paths.json"])
    if not info:
        return None
    entries = stated_paths.paths(archive, parse_info(archive, info, "paths.json")).values()
    sizes = (entry.get("size_in_bytes") for entry in entries)
    return sum(size_bytes for size_bytes in sizes if isinstance(size_bytes, int))


def with_overhead(size_bytes: int) -> int:
    """What files of this many bytes in all take in an environment."""
    return int(size_bytes * _OVERHEAD)


def require_room(archives: Iterable[Path], prefix: Path, unpacked: int = 0) -> None:
    """Check that a prefix has room for what is to be unpacked into it. Raises DiskSpaceError if it has not, with both
    figures."""
    needed = with_overhead(unpacked + sum(unpacked_bytes(archive) for archive in archives))
    free = shutil.disk_usage(prefix).free
    if needed > free:
        raise DiskSpaceError(
            f"{prefix} has too little room: about {size(needed)} are needed, {size(free)} are free",
            "make room, or choose a place on another disk with -p; nothing in the environment was touched",
        )
