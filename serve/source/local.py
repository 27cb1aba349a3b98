"""The watched place, looked at: one checkpoint that is overwritten, or a directory of checkpoints.

Only looks; `serve.source.observation` decides. Places on other machines are `serve.source.remote`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from serve.checkpoint import sharded
from serve.checkpoint.manifest import stated_generation
from serve.source.observation import MARKER_SUFFIX, Identity, Observation

MARKER_LIMIT_BYTES = 1024 * 1024


class Place:
    """Where checkpoints appear.

    Args:
        path: a checkpoint, or a directory of checkpoints. It need not exist yet: what it is, is found at each look.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # A marker is read for its rank once; ten thousand of them must not be opened at each look.
        self._generations: dict[Path, tuple[Identity, int]] = {}

    @property
    def is_directory(self) -> bool:
        """Whether rank among several checkpoints matters."""
        return self.path.is_dir()

    @property
    def directory(self) -> Path:
        """The directory in which markers appear."""
        return self.path if self.is_directory else self.path.parent

    def observe(self) -> Iterator[Observation]:
        """Look at the checkpoints that have a marker, the highest stated generation first, then the newest marker.

        Yields:
            One observation at a time: a caller that stops early leaves the older markers unread.

        Raises:
            OSError: the place cannot be listed.
        """
        found = [(self._generation(*pair), pair[1].st_mtime_ns, pair[0].name, *pair) for pair in self._markers()]
        self._generations = {
            marker: self._generations[marker] for *_, marker, _ in found if marker in self._generations
        }
        for *_, marker, seen in sorted(found, key=lambda rank: rank[:3], reverse=True):
            yield _observe(marker, seen)

    def _generation(self, marker: Path, seen: os.stat_result) -> int:
        if not seen.st_size or not stat.S_ISREG(seen.st_mode):
            return 0
        identity, known = _identify(seen), self._generations.get(marker)
        if known is None or known[0] != identity:
            try:
                with marker.open("rb") as reader:
                    known = identity, stated_generation(reader.read(MARKER_LIMIT_BYTES))
            except OSError:
                return 0
            self._generations[marker] = known
        return known[1]

    def _markers(self) -> list[tuple[Path, os.stat_result]]:
        if not self.is_directory:
            paths = [self.path.with_name(self.path.name + MARKER_SUFFIX)]
        else:
            with os.scandir(self.path) as entries:
                paths = [Path(entry.path) for entry in entries if _is_marker_name(entry.name)]
        found = []
        for path in paths:
            try:
                found.append((path, _look_at_marker(path)))
            except FileNotFoundError:
                continue  # gone between the listing and the look, or not there yet
        return found


def _look_at_marker(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise
    except OSError:  # a loop of links, say: one bad marker must not hide the others
        return path.lstat()


def _is_marker_name(name: str) -> bool:
    # Names that start with a dot are the temporary files of publishers.
    return name.endswith(MARKER_SUFFIX) and not name.startswith(".")


def _observe(marker: Path, seen: os.stat_result) -> Observation:
    path = marker.with_name(marker.name[: -len(MARKER_SUFFIX)])
    identity = _identify(seen)
    if not stat.S_ISREG(seen.st_mode):
        return Observation(path, None, identity, b"", "the marker: expected a regular file")
    try:
        with marker.open("rb") as reader:
            text = reader.read(MARKER_LIMIT_BYTES + 1)
            identity = _identify(os.fstat(reader.fileno()))
        found = _look_at_checkpoint(path)
    except OSError as error:
        return Observation(path, None, identity, b"", f"it cannot be read: {error}")
    checkpoint = None if found is None else _identify(found)
    if found is not None and not stat.S_ISREG(found.st_mode):
        return Observation(path, checkpoint, identity, text, "the checkpoint: expected a regular file")
    if len(text) > MARKER_LIMIT_BYTES:
        return Observation(path, checkpoint, identity, b"", f"the marker: expected at most {MARKER_LIMIT_BYTES} bytes")
    return Observation(path, checkpoint, identity, text, generation=stated_generation(text))


def _look_at_checkpoint(path: Path) -> os.stat_result | None:
    try:
        return sharded.look(path) if sharded.is_index(path) else path.stat()
    except FileNotFoundError:
        return None


def _identify(seen: os.stat_result) -> Identity:
    return Identity(seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)


def identify(descriptor: int, path: Path) -> Identity | None:
    """Return the identity of an open checkpoint.

    Args:
        descriptor: its file descriptor.
        path: where it was opened.

    Raises:
        OSError: the file cannot be looked at, for example because its server is gone.
    """
    seen = _look_at_checkpoint(path) if sharded.is_index(path) else os.fstat(descriptor)
    return None if seen is None else _identify(seen)
