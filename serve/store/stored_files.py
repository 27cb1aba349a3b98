"""The files of a store: their sizes, their proofs, and which of them are deleted.

<store>/incoming/          copies that are not proven yet
<store>/sha256/<digest>    proven, read-only checkpoints
<store>/proofs/<digest>    when, and in which state of the file, it was proven
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from pathlib import Path

from serve import durable_files

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class StoredFiles:
    """The files of one store."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.proven, self.incoming, self.proofs = root / "sha256", root / "incoming", root / "proofs"

    def drop(self, sha256: str) -> None:
        """Delete what is not needed any more, be it new or not.

        Raises:
            OSError: the store cannot be written.
        """
        (self.proven / sha256).unlink(missing_ok=True)
        (self.proofs / sha256).unlink(missing_ok=True)

    def is_proven(self, sha256: str, seen: os.stat_result) -> bool:
        """Whether a checkpoint was hashed since the machine started, and is as it was then.

        Args:
            seen: its state.
        """
        try:
            proof: object = json.loads((self.proofs / sha256).read_bytes())
        except (OSError, ValueError):
            return False
        return proof == _describe(seen)

    def note_proof(self, path: Path) -> None:
        """Note that a checkpoint was just hashed, and is what its name states."""
        with contextlib.suppress(OSError):  # without it the checkpoint is only hashed again
            # Good for this boot only, so that it need not survive a power cut.
            content = json.dumps(_describe(path.stat())).encode()
            durable_files.replace_file(self.proofs / path.name, content, is_lasting=False)

    def entries(self) -> dict[str, int]:
        """Return sizes in bytes: of each checkpoint by its sha256, of each unfinished copy by its name."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for path in [*self.proven.iterdir(), *self.parts()]:
                with contextlib.suppress(FileNotFoundError):
                    found[path.name] = path.stat().st_size
        return found

    def free_bytes(self) -> int:
        """Return how much room there is on its disk."""
        disk = os.statvfs(self._root)
        return disk.f_bavail * disk.f_frsize

    def parts(self) -> list[Path]:
        """Return the unfinished copies."""
        return list(self.incoming.iterdir()) if self.incoming.is_dir() else []

    def drop_parts(self) -> None:
        """Delete them; the caller holds the store's lock, so whoever wrote them is dead."""
        for leftover in self.parts():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def sweep(self, keep: frozenset[str], before_s: float) -> bool:
        """Delete what is superfluous; the caller holds the store's lock.

        Args:
            keep: the sha256 of every checkpoint that stays.
            before_s: what was admitted or found later than this, on the wall clock, stays.

        Returns:
            Whether a checkpoint was deleted.
        """
        superfluous = self.find_superfluous(keep, before_s)
        for path in superfluous:
            self.drop(path.name)
        self.drop_parts()
        return bool(superfluous)

    def find_superfluous(self, keep: frozenset[str], before_s: float) -> list[Path]:
        """Find what is not needed any more.

        Args:
            keep: the sha256 of every checkpoint that stays.
            before_s: what was admitted or found later than this, on the wall clock, stays.
        """
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in self.proven.iterdir():
                with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                    if path.name not in keep and path.stat().st_ctime < before_s:
                        found.append(path)
        return found


def _describe(seen: os.stat_result) -> list[object]:
    # Not the ctime: it changes with each use. Who sets back an mtime on purpose can forge a proof as well.
    return [_read_boot_id(), seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns]


@functools.cache
def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
