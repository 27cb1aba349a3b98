"""Room on the disk: how much archives and wheels take once they are unpacked, asked before a prefix is touched."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

from envtool.artifacts.conda_archive import read_info_json
from envtool.console import size
from envtool.errors import DiskSpaceError

# Byte-code, directory entries and the blocks that small files do not fill: about an eighth on top, by measurement.
_OVERHEAD = 1.125
# What an archive that nobody has seen comes to once it is unpacked.
UNPACKED_FACTOR = 4


def unpacked_bytes(archive: Path) -> int:
    """How many bytes the files of an archive or wheel hold, as it states itself.

    Raises:
        ArchiveError: It is neither.
    """
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return sum(member.file_size for member in wheel.infolist())
    return sum(path.get("size_in_bytes") or 0 for path in read_info_json(archive, "paths.json")["paths"])


def with_overhead(size_bytes: int) -> int:
    """What files of this many bytes in all take in an environment."""
    return int(size_bytes * _OVERHEAD)


def require_room(archives: Iterable[Path], prefix: Path, unpacked: int = 0) -> None:
    """Check that a prefix has room for what is to be unpacked into it.

    Args:
        archives: The proven archives and wheels.
        prefix: The prefix, which is there.
        unpacked: How many bytes come from packages that are unpacked already.

    Raises:
        DiskSpaceError: It has not, with both figures.
    """
    needed = with_overhead(unpacked + sum(unpacked_bytes(archive) for archive in archives))
    free = shutil.disk_usage(prefix).free
    if needed > free:
        raise DiskSpaceError(
            f"{prefix} has too little room: about {size(needed)} are needed, {size(free)} are free",
            "make room, or choose a place on another disk with -p; nothing in the environment was touched",
        )
