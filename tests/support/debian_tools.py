"""Programs of Debian that tests judge with: found, installed where the tests run as root, or a reason to skip."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def require(*programs: str) -> None:
    """Have programs on PATH, whose packages have their names; skip the test where that cannot be."""
    with (Path(tempfile.gettempdir()) / f"envserve-tests-apt-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # apt takes no second one
        missing = [program for program in programs if shutil.which(program) is None]
        if missing and os.getuid() == 0 and shutil.which("apt-get"):
            argv = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
            subprocess.run(argv, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, capture_output=True)
            missing = [each for each in programs if shutil.which(each) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")
