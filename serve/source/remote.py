"""A watched place that is no directory of this machine: `s3://…`, `gs://…`, `memory://…`, whatever fsspec can open.

Such a place has no events, so it is polled. The marker is read first, and the checkpoint is copied from there into the
store when it is decided to load it. Objects of such stores appear whole; one that changes while it is copied is found
out by looking before and after. Needs the extra `[remote]`, and the package of the store's own protocol, for example
s3fs, whose settings are its own (`AWS_ENDPOINT_URL` and the like). Sharded checkpoints are out of scope here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from serve import durable_files
from serve.checkpoint import sharded
from serve.checkpoint.manifest import stated_generation
from serve.errors import CheckpointMovedError, ModelError
from serve.source.local import MARKER_LIMIT_BYTES, Place
from serve.source.observation import MARKER_SUFFIX, Identity, Observation

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,3}(.+)")
# Under these names the file systems of fsspec tell when something changed, and what its content is.
_TIMES = ("LastModified", "mtime", "updated", "last_modified", "created")
_TAGS = ("ETag", "etag", "md5Hash", "ino")


def url_of(path: Path) -> str | None:
    """Return the URL that a path of the settings stands for, or `None` when it is a plain path.

    Args:
        path: in which several slashes have become one.
    """
    found = _URL.fullmatch(str(path))
    if found is None:
        return None
    scheme, rest = found.groups()
    return f"{scheme}:///{rest}" if scheme in ("file", "local") else f"{scheme}://{rest}"


def make_place(path: Path) -> Place:
    """Make the place that the settings name.

    Args:
        path: of this machine, or a URL.
    """
    url = url_of(path)
    return Place(path) if url is None else RemotePlace(path, url)


class RemotePlace(Place):
    """Where checkpoints appear, on another machine.

    Args:
        path: names the place in messages.
        url: of a checkpoint, or of a directory of checkpoints.
    """

    def __init__(self, path: Path, url: str) -> None:
        super().__init__(path)
        self._url = url
        self._opened: tuple[Any, str] | None = None
        self._markers_read: dict[str, tuple[Identity, bytes]] = {}

    @property
    def is_directory(self) -> bool:
        """Whether rank among several checkpoints matters."""
        system, path = self._open()
        return not system.exists(path + MARKER_SUFFIX)

    @property
    def directory(self) -> Path:
        """What no file events can be had from."""
        return self.path

    def observe(self) -> Iterator[Observation]:
        """Look at the checkpoints that have a marker, the highest stated generation first, then the newest marker.

        Yields:
            One observation at a time.

        Raises:
            OSError: the place cannot be listed.
        """
        system, _ = self._open()
        system.invalidate_cache()
        facts = self._list()
        found = [self._observe(name, facts) for name in facts if name.endswith(MARKER_SUFFIX)]
        self._markers_read = {name: read for name, read in self._markers_read.items() if name in facts}
        yield from sorted(found, key=lambda seen: seen.order, reverse=True)

    def _list(self) -> dict[str, Mapping[str, Any]]:
        system, path = self._open()
        if system.exists(path + MARKER_SUFFIX):
            names = [path + MARKER_SUFFIX, path]
            return {name: system.info(name) for name in names if system.exists(name)}
        try:
            entries = system.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        return {entry["name"]: entry for entry in entries if entry.get("type") != "directory" and entry["name"] != path}

    def _observe(self, name: str, facts: Mapping[str, Mapping[str, Any]]) -> Observation:
        marker = _identify(facts[name])
        checkpoint_name = name[: -len(MARKER_SUFFIX)]
        path = Path(checkpoint_name)
        checkpoint = _identify(facts[checkpoint_name]) if checkpoint_name in facts else None
        if marker.size_bytes > MARKER_LIMIT_BYTES:
            problem = f"the marker: expected at most {MARKER_LIMIT_BYTES} bytes"
            return Observation(path, checkpoint, marker, b"", problem)
        if sharded.is_index(path):
            return Observation(path, checkpoint, marker, b"", "sharded checkpoints are not read from a remote place")
        known = self._markers_read.get(name)
        if known is None or known[0] != marker:
            known = self._markers_read[name] = marker, bytes(self._open()[0].cat_file(name))
        source = RemoteSource(self._open()[0], checkpoint_name, checkpoint)
        return Observation(path, checkpoint, marker, known[1], generation=stated_generation(known[1]), source=source)

    def _open(self) -> tuple[Any, str]:
        # Not before the fork: such file systems keep threads and connections.
        if self._opened is None:
            try:
                from fsspec.core import url_to_fs

                system, path = url_to_fs(self._url, skip_instance_cache=True, use_listings_cache=False)
            except (ImportError, ValueError) as error:
                raise ModelError(
                    f"checkpoints: {self._url}: {error}",
                    hint="install envserve with its extra [remote], and fsspec's package for this protocol",
                ) from error
            self._opened = system, str(path).rstrip("/")
        return self._opened


@dataclass(frozen=True)
class RemoteSource:
    """Where the store gets the bytes of a remote checkpoint.

    Args:
        system: the file system.
        name: of the checkpoint there.
        seen: its identity when it was observed.
    """

    system: Any
    name: str
    seen: Identity | None

    def copy_hashed(self, target: Path) -> durable_files.Copied:
        """Copy the checkpoint into a new, synced file, and hash exactly the bytes that were written.

        Args:
            target: the file to create; it must not exist.

        Raises:
            CheckpointMovedError: it changed since it was observed.
            OSError: reading or writing failed; `target` may exist in part.
        """
        self._require_unchanged()
        with self.system.open(self.name, "rb", cache_type="none") as reader:
            copied = durable_files.write_hashed(iter(lambda: reader.read(durable_files.CHUNK_BYTES), b""), target)
        self._require_unchanged()
        return copied

    def _require_unchanged(self) -> None:
        self.system.invalidate_cache()
        if _identify(self.system.info(self.name)) != self.seen:
            raise CheckpointMovedError(f"{self.name}: it changed since it was observed")


def _identify(facts: Mapping[str, Any]) -> Identity:
    tag = next((str(facts[key]) for key in _TAGS if facts.get(key)), "")
    stated = next((facts[key] for key in _TIMES if facts.get(key)), 0)
    mtime_s = _parse_time(stated) if isinstance(stated, str) else stated
    seconds = mtime_s.timestamp() if isinstance(mtime_s, datetime) else float(mtime_s)
    number = int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8], "big")
    return Identity(0, number, int(facts.get("size") or 0), int(seconds * 1_000_000_000))


def _parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
