"""The watched place, looked at: one checkpoint that is overwritten, or a directory of checkpoints.

Only looks; `serve.source.observation` decides. Places on other machines are `serve.source.remote`."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from serve.checkpoint import sharded
from serve.checkpoint.manifest import stated_generation
from serve.checkpoint.signature import with_bundle
from serve.source.observation import MARKER_SUFFIX, Identity, Observation

MARKER_LIMIT_BYTES = 1024 * 1024
MARKER_TOO_LONG = f"the marker: expected at most {MARKER_LIMIT_BYTES} bytes"
_MOST_SHARE = 0.01  # looking at the markers of thousands of checkpoints takes at most this part of a core
_COARSEST_S = 2.0  # times of directories are this coarse on some file systems: later changes may not show


class Listed(NamedTuple):
    """A marker that is there, before anything of it is read."""

    path: Path
    marker: Identity
    generation: int = 0

    @property
    def order(self) -> tuple[int, int, str]:
        """The rank that its observation has."""
        return self.generation, self.marker.mtime_ns, self.path.name


class _Listing(NamedTuple):
    """What was found in a directory, and how long that may be believed."""

    directory: tuple[int, int, int] | None
    until_s: float
    found: Sequence[Listed]


class LocalSource:
    """Where checkpoints appear: one, or a directory of them. It need not exist yet; each look finds what it is."""

    has_events = True  # whether this machine's kernel reports what comes there

    def __init__(self, path: Path) -> None:
        self.path = path
        # A marker is read for its rank once; ten thousand of them must not be opened at each look.
        self._generations: dict[str, tuple[Identity, int]] = {}
        self._listing = _Listing(None, 0.0, ())

    @property
    def is_directory(self) -> bool:
        """Whether rank among several checkpoints matters."""
        return self.path.is_dir()

    @property
    def directory(self) -> Path:
        """The directory in which markers appear."""
        return self.path if self.is_directory else self.path.parent

    def refresh(self) -> None:
        """Have the next look list everything, as something is known to have changed."""
        self._listing = _Listing(None, 0.0, ())

    def list(self) -> Sequence[Listed]:
        """List the markers, the highest stated generation first, then the newest. Where there are thousands, the last
        list is given again while the directory itself states that nothing came or went, and so for at most a hundred
        times as long as listing takes."""
        seen = self.path.stat() if self.is_directory else None
        state = (seen.st_dev, seen.st_ino, seen.st_mtime_ns) if seen is not None else None
        started_s = time.monotonic()
        if state is not None and state == self._listing.directory and started_s < self._listing.until_s:
            return self._listing.found
        is_settled = seen is not None and time.time() - seen.st_mtime > _COARSEST_S
        found = self._find()
        if found == self._listing.found:
            found = self._listing.found
        until_s = started_s + (time.monotonic() - started_s) / _MOST_SHARE
        self._listing = _Listing(state if is_settled else None, until_s, found)
        return found

    def look_at(self, listed: Listed) -> Observation:
        """Look at one checkpoint and its marker."""
        path = listed.path
        marker = path.with_name(path.name + MARKER_SUFFIX)
        seen = _look_at_marker(str(marker))
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
            return Observation(path, checkpoint, identity, b"", MARKER_TOO_LONG)
        generation = listed.generation if identity == listed.marker else stated_generation(text)
        return Observation(path, checkpoint, identity, with_bundle(text, path), generation=generation)

    def observe(self, listed: Sequence[Listed] | None = None) -> Iterator[Observation]:
        """Look at marked checkpoints, the highest rank first, one at a time: who stops early leaves markers unread."""
        for one in self.list() if listed is None else listed:
            with contextlib.suppress(FileNotFoundError):  # gone between the listing and the look
                yield self.look_at(one)

    def _find(self) -> Sequence[Listed]:
        found = []
        if not self.is_directory:
            markers = [str(self.path) + MARKER_SUFFIX]
        else:
            with os.scandir(self.path) as entries:  # names that start with a dot are the temporary files of publishers
                names = (entry for entry in entries if entry.name.endswith(MARKER_SUFFIX))
                markers = [entry.path for entry in names if not entry.name.startswith(".")]
        for marker in markers:
            with contextlib.suppress(FileNotFoundError):  # gone since the listing, or not there yet
                seen, path = _look_at_marker(marker), Path(marker[: -len(MARKER_SUFFIX)])
                found.append(Listed(path, _identify(seen), self._generation(marker, seen)))
        there = {str(one.path) + MARKER_SUFFIX for one in found}
        self._generations = {name: known for name, known in self._generations.items() if name in there}
        return sorted(found, key=lambda one: one.order, reverse=True)

    def _generation(self, marker: str, seen: os.stat_result) -> int:
        if not seen.st_size or not stat.S_ISREG(seen.st_mode):
            return 0
        identity, known = _identify(seen), self._generations.get(marker)
        if known is None or known[0] != identity:
            try:
                with open(marker, "rb") as reader:  # noqa: PTH123 - as a text: there may be thousands
                    known = identity, stated_generation(reader.read(MARKER_LIMIT_BYTES))
            except OSError:
                return 0
            self._generations[marker] = known
        return known[1]


def _look_at_marker(path: str) -> os.stat_result:
    try:
        return os.stat(path)  # noqa: PTH116 - as a text: there may be thousands
    except FileNotFoundError:
        raise
    except OSError:  # a loop of links, say: one bad marker must not hide the others
        return os.lstat(path)


def _look_at_checkpoint(path: Path) -> os.stat_result | None:
    try:
        return sharded.look(path) if sharded.is_index(path) else path.stat()
    except FileNotFoundError:
        return None


def _identify(seen: os.stat_result) -> Identity:
    return Identity(seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)


def look_at_checkpoint(path: Path) -> Identity | None:
    """Return the present identity of a checkpoint, or `None` where it is missing."""
    seen = _look_at_checkpoint(path)
    return None if seen is None else _identify(seen)


def identify(descriptor: int, path: Path) -> Identity | None:
    """Return the identity of an open checkpoint; raises `OSError` where its server is gone."""
    seen = _look_at_checkpoint(path) if sharded.is_index(path) else os.fstat(descriptor)
    return None if seen is None else _identify(seen)
