"""The peers' environments: one for each, made once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from catalog import Peer

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "envserve-bench"


def install(peer: Peer) -> Path:
    """Make a peer's environment, unless it is there, and return the directory of its programs."""
    if peer.venv is None:
        return Path(sys.executable).parent
    directory = CACHE / "venvs" / peer.venv
    mark = directory / "installed"
    requirements = [f"torch=={torch.__version__.partition('+')[0]}", "numpy", "safetensors", *peer.requirements]
    if not mark.exists() or mark.read_text() != "\n".join(requirements):
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        subprocess.run([str(directory / "bin" / "pip"), "install", "--quiet", *requirements], check=True)
        mark.write_text("\n".join(requirements))
    return directory / "bin"
