"""A watched place that is no directory of this machine: `s3://…`, `gs://…`, `memory://…`, whatever fsspec can open.

Such a place has no events, so it is polled. The marker is read first, and the checkpoint is copied from there into the
store when it is decided to load it; shards are joined there. One that changes while it is copied is found out by
looking before and after. Needs the extra `[remote]`, and the package of the store's own protocol, for example s3fs."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from serve import durable_files
from serve.checkpoint import sharded
from serve.checkpoint.manifest import stated_generation
from serve.errors import CheckpointError, CheckpointMovedError, ModelError
from serve.settings.parsers import mlflow_alias
from serve.source.local import MARKER_LIMIT_BYTES, MARKER_TOO_LONG, Listed, LocalSource
from serve.source.mlflow_registry import MlflowPlace
from serve.source.observation import MARKER_SUFFIX, Identity, Observation

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/{1,3}(.+)")
# Under these names the file systems of fsspec tell when something changed, and what its content is.
_TIMES = ("LastModified", "mtime", "updated", "last_modified", "modificationTime", "modify", "created")
_PASSWORD = re.compile(r"(?<=[^:/]):[^:@/]*@")
_MAGIC = re.compile(r"[*?\[]")  # of what fsspec takes for a pattern
_TAGS = ("ETag", "etag", "md5Hash", "ino")


def url_of(path: Path) -> str | None:
    """Return the URL for which a path of the settings, whose slashes have become one, stands; `None` for another."""
    found = _URL.fullmatch(str(path))
    if found is None:
        return None
    scheme, rest = found[1].lower(), found[2]
    return f"{scheme}:///{rest}" if scheme in ("file", "local") else f"{scheme}://{rest}"


def mask(url: str) -> str:
    """Return a URL, or the path that stands for one, without its password."""
    return _PASSWORD.sub(":***@", url)


def open_url(url: str) -> tuple[Any, str]:
    """Open a URL; return fsspec's file system, which may cache listings, and the path in it. Raises `ModelError`."""
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        hint = "install envserve with its extra [remote], and fsspec's package for this protocol"
        raise ModelError(f"checkpoints: {mask(url)}: {error}", hint) from error
    return system, str(path).rstrip("/")


def make_place(path: Path) -> LocalSource:
    """Make the place that the settings name."""
    alias = mlflow_alias(str(path))
    if alias is not None:
        return MlflowPlace(path, *alias)
    url = url_of(path)
    return LocalSource(path) if url is None else RemotePlace(Path(mask(str(path))), url)


class RemotePlace(LocalSource):
    """Where checkpoints appear, on another machine; what `open_url` gave may be `opened` already."""

    has_events = False

    def __init__(self, path: Path, url: str, opened: tuple[Any, str] | None = None) -> None:
        super().__init__(path)
        self._url = url
        self._opened = opened
        self._markers_read: dict[str, tuple[Identity, bytes, int]] = {}
        self._facts: dict[str, Mapping[str, Any]] = {}
        self._names: dict[Path, str] = {}
        self._found: Sequence[Listed] = ()
        self._indexes: dict[str, tuple[Identity, tuple[str, ...]]] = {}

    @property
    def is_directory(self) -> bool:
        """Whether rank among several checkpoints matters."""
        system, path = self._open()
        return not system.exists(path + MARKER_SUFFIX)

    @property
    def directory(self) -> Path:
        """What sends no file events."""
        return self.path

    def list(self) -> Sequence[Listed]:
        """List the markers, the highest stated generation first, then the newest."""
        system, _ = self._open()
        system.invalidate_cache()
        self._facts, self._names = self._ask(), {}
        names = [name for name in self._facts if name.endswith(MARKER_SUFFIX)]
        self._read_texts(names)
        found = []
        for name in names:
            path, (marker, _, generation) = Path(name[: -len(MARKER_SUFFIX)]), self._markers_read[name]
            self._names[path] = name[: -len(MARKER_SUFFIX)]
            found.append(Listed(path, marker, generation))
        self._markers_read = {name: read for name, read in self._markers_read.items() if name in self._facts}
        self._indexes = {name: read for name, read in self._indexes.items() if name in self._facts}
        found.sort(key=lambda one: one.order, reverse=True)
        self._found = self._found if found == self._found else found
        return self._found

    def _ask(self) -> dict[str, Mapping[str, Any]]:
        system, path = self._open()
        if system.exists(path + MARKER_SUFFIX):
            names = [path + MARKER_SUFFIX, path]
            if not sharded.is_index(Path(path)):
                return {name: system.info(name) for name in names if system.exists(name)}
            beside = system.ls(path.rpartition("/")[0], detail=True)
            facts = {entry["name"]: entry for entry in beside}
            return {name: facts[name] for name in facts if name in names or not name.endswith(MARKER_SUFFIX)}
        try:
            entries = system.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        return {entry["name"]: entry for entry in entries if entry.get("type") != "directory" and entry["name"] != path}

    def _read_texts(self, names: Sequence[str]) -> None:
        """Read the markers that were not read in this state, all at once where the protocol can."""
        system, _ = self._open()
        markers = {name: identify(self._facts[name]) for name in names}
        unread = {name: seen for name, seen in markers.items() if self._markers_read.get(name, (None,))[0] != seen}
        short = [name for name, seen in unread.items() if seen.size_bytes <= MARKER_LIMIT_BYTES]
        texts = system.cat(short) if short and not any(_MAGIC.search(name) for name in short) else {}
        for name, seen in unread.items():
            text = bytes(texts.get(name) or system.cat_file(name)) if name in short else b""
            self._markers_read[name] = seen, text, stated_generation(text)

    def look_at(self, listed: Listed) -> Observation:
        """Look at one checkpoint and its marker, as the last listing has them."""
        path, marker, name = listed.path, listed.marker, self._names[listed.path]
        try:
            parts = self._parts_of(name)
        except CheckpointError as error:
            return Observation(path, None, marker, b"", error.message)
        checkpoint = _join([self._facts.get(part) for part in parts])
        if marker.size_bytes > MARKER_LIMIT_BYTES:
            return Observation(path, checkpoint, marker, b"", MARKER_TOO_LONG)
        text = self._markers_read[name + MARKER_SUFFIX][1]
        copy = partial(_copy, self._open()[0], parts, checkpoint)
        return Observation(path, checkpoint, marker, text, generation=listed.generation, copy=copy)

    def _parts_of(self, name: str) -> tuple[str, ...]:
        """Name the files of a checkpoint, the index first."""
        if name not in self._facts or not sharded.is_index(Path(name)):
            return (name,)
        seen = identify(self._facts[name])
        known = self._indexes.get(name)
        if known is None or known[0] != seen:
            if seen.size_bytes > sharded.INDEX_LIMIT_BYTES:
                raise CheckpointError("damaged", f"the index: expected at most {sharded.INDEX_LIMIT_BYTES} bytes")
            shards = sharded.parse_index(bytes(self._open()[0].cat_file(name)), Path(name)).values()
            directory = name.rpartition("/")[0]
            known = seen, (name, *sorted({f"{directory}/{shard.name}" for shard in shards}))
            self._indexes[name] = known
        return known[1]

    def _open(self) -> tuple[Any, str]:
        # Not before the fork: such file systems keep threads and connections.
        if self._opened is None:
            self._opened = open_url(self._url)
        return self._opened


def _copy(system: Any, parts: Sequence[str], seen: Identity | None, target: Path) -> durable_files.Copied:
    """Copy a file, or join an index and its shards; raises `CheckpointMovedError` after a change, `CheckpointError`."""

    def read(part: str) -> Iterator[bytes]:
        with system.open(part, "rb", cache_type="none") as reader:
            yield from iter(lambda: reader.read(durable_files.CHUNK_BYTES), b"")

    def require_unchanged() -> None:
        system.invalidate_cache()
        if _join([system.info(part) for part in parts]) != seen:
            raise CheckpointMovedError(f"{parts[0]}: it changed since it was observed")

    require_unchanged()
    if len(parts) == 1:
        copied = durable_files.write_hashed(read(parts[0]), target)
    else:
        with tempfile.TemporaryDirectory(dir=target.parent, suffix=".part") as directory:
            copies = [Path(directory) / part.rpartition("/")[2] for part in parts]
            for part, copy in zip(parts, copies):
                durable_files.write_hashed(read(part), copy)
            require_unchanged()
            copied = sharded.join_hashed(copies[0], target)
    require_unchanged()
    return copied


def _join(parts: Sequence[Mapping[str, Any] | None]) -> Identity | None:
    """Return the identity of files as if they were one, or `None` where one of them is not found."""
    found = [identify(facts) for facts in parts if facts is not None]
    if len(found) < len(parts):
        return None
    if len(found) == 1:
        return found[0]
    number = int.from_bytes(hashlib.sha256(repr(found).encode()).digest()[:8], "big")
    return Identity(0, number, sum(one.size_bytes for one in found), max(one.mtime_ns for one in found))


def identify(facts: Mapping[str, Any]) -> Identity:
    """Return the identity of a file whose facts fsspec has given."""
    key = next((key for key in _TIMES if facts.get(key)), "")
    seconds = _to_seconds(key, facts.get(key, 0))
    tag = next((str(facts[key]) for key in (_TAGS if seconds else (*_TAGS, key)) if facts.get(key)), "")
    number = int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8], "big")
    return Identity(0, number, int(facts.get("size") or 0), int(seconds * 1_000_000_000))


def _to_seconds(key: str, stated: Any) -> float:
    if key == "modificationTime":  # milliseconds (WebHDFS)
        return float(stated) / 1000
    if key == "modify":  # RFC 3659, 2.3: always UTC; an old server's listing has no time that could be compared
        digits = re.match(r"\d{14}", str(stated))
        return datetime.strptime(digits[0] + "+0000", "%Y%m%d%H%M%S%z").timestamp() if digits else 0.0
    if isinstance(stated, str):
        stated = datetime.fromisoformat(stated.replace("Z", "+00:00"))
    return stated.timestamp() if isinstance(stated, datetime) else float(stated)
