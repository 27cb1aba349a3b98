"""Programs and libraries of Debian's that a test needs and the machine may lack, unpacked without installing them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def unpack(place: Path, *packages: str) -> Path:
    """Unpack packages into a directory, unless it holds them already.

    Args:
        place: the directory; made where it is missing.
        packages: their names.

    Returns:
        The directory, which stays empty where apt is missing or reaches no archive: the caller looks and skips.
    """
    if place.exists() or not (shutil.which("apt-get") and shutil.which("dpkg")):
        return place
    scratch = place.with_name(place.name + ".debs")
    scratch.mkdir(parents=True)
    try:
        subprocess.run(["apt-get", "download", "-q", *packages], cwd=scratch, capture_output=True)
        for package in scratch.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(place)], check=True)
    finally:
        shutil.rmtree(scratch)
    return place


def library_directories(place: Path) -> str:
    """Where the unpacked libraries are, as `LD_LIBRARY_PATH` wants it."""
    return ":".join(sorted({str(path.parent) for path in place.rglob("*.so*")}))
