"""A simulator of NVIDIA's driver: its library, compiled here, and the kernel's note of it in a mount namespace."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

_LIBRARY = "int cuInit(unsigned x) {{ return 0; }}\nint cuDriverGetVersion(int *v) {{ *v = {}; return 0; }}\n"
_NOTE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Sat Aug 19 01:15:15 UTC 2023\n"
# The arguments are the note's text and the program.
_MOUNT = (
    'mount -t tmpfs none /proc/driver && mkdir /proc/driver/nvidia && printf %s "$0" > /proc/driver/nvidia/version'
    ' && exec "$@"'
)


def missing() -> str | None:
    """Why it cannot be simulated on this machine, or None."""
    if shutil.which("cc") is None:
        return "no C compiler"
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", _MOUNT, "x", "true"], capture_output=True)
    return None if done.returncode == 0 else "no mount namespace for users, or no /proc/driver"


def library(place: Path, cuda: str) -> Path:
    """The directory with a libcuda that supports a CUDA."""
    major, minor = (int(each) for each in cuda.split("."))
    place.mkdir()
    source = place / "cuda.c"
    source.write_text(_LIBRARY.format(major * 1000 + minor * 10))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", place / "libcuda.so", source], check=True)
    return place


def with_note(argv: Sequence[str], driver: str) -> list[str]:
    """A program on a machine whose kernel has a driver."""
    return ["unshare", "-Urm", "sh", "-c", _MOUNT, _NOTE.format(driver), *argv]
