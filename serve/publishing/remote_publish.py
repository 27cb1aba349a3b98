"""Publishing where fsspec writes: `s3://…`, `gs://…`, `sftp://…`, each place that `serve.source.remote` can watch.

The old marker goes first, then the checkpoint comes, then its marker. A checkpoint that a run left which was stopped
before its marker is proven by its bytes and not sent again; to S3, neither are the parts of one. The times of markers
are the store's own; where they cannot put one above the others, a generation does.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

from serve import durable_files
from serve.checkpoint import sharded
from serve.errors import PublishError
from serve.publishing.mlflow_publish import MlflowTarget, explained
from serve.publishing.rank import Rank, WriteMarker, find_rank
from serve.settings.parsers import mlflow_alias
from serve.source import remote
from serve.source.observation import MARKER_SUFFIX, Identity

# fsspec reads these, and writes to some of them in ways that publish nothing.
_READ_ONLY = frozenset({"http", "https", "github", "git", "data"})
_SUFFIXES = (".safetensors", sharded.INDEX_SUFFIX, ".pt", ".pth", ".ckpt", ".bin", ".pt2")
# S3 tells times in seconds.
_GRAIN_S = 1.1
_PART_BYTES = 32 * 2**20
_HINT = "check the URL, the credentials and the rights"


def split_place(text: str, name: str | None) -> tuple[str, str | None]:
    """Split a place that is one checkpoint, which is overwritten, into directory and name."""
    directory, _, last = text.rstrip("/").rpartition("/")
    is_file = name is None and last.endswith(_SUFFIXES) and not directory.endswith(":/") and not Path(text).is_dir()
    return (directory or ("/" if text.startswith("/") else "."), last) if is_file else (text, name)


def find_place(text: str | Path) -> Path | RemotePlace | MlflowTarget:
    """Find out where to publish, as the setting `checkpoints` has it; raises `PublishError` where nothing can be."""
    try:
        alias = mlflow_alias(str(text))
    except ValueError as error:
        raise PublishError(f"--to: {error}", hint="publish creates the model and the alias") from error
    if alias is not None:
        return MlflowTarget(*alias)
    url = remote.url_of(Path(text))
    if url is None:
        if ":/" in str(text):
            hint = "write PROTOCOL://PLACE"
            raise PublishError(f"--to: expected a directory or a URL that fsspec opens, found {text}", hint)
        return Path(text)
    scheme, _, rest = url.partition("://")
    if scheme in ("file", "local"):
        return Path(rest)
    if scheme in _READ_ONLY:
        raise PublishError(f"{url}: {scheme} is only read", hint="publish to the storage behind it")
    return RemotePlace(url)


class RemotePlace:
    """A directory elsewhere; `shown` is its URL without a password. Raises `PublishError` if fsspec cannot open it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.shown = remote.mask(self.url)
        with explained(self.shown, _HINT):
            self._system, self._path = remote.open_url(url)

    def put(
        self, source: Path, name: str, sha256: str, generation: int, write_marker: WriteMarker
    ) -> Mapping[str, Any]:
        """Publish a checkpoint; the marker is written once beforehand. After a `PublishError` there is none."""
        target = f"{self._path}/{name}"
        place = remote.RemotePlace(Path(self.url), self.url, (self._system, self._path))
        with explained(self.shown, _HINT):
            rank = find_rank(place, generation)
        write_marker(rank, {})
        with explained(self.shown, _HINT):
            self._system.invalidate_cache()
            if self._system.exists(target + MARKER_SUFFIX):
                self._system.rm_file(target + MARKER_SUFFIX)
            if not self._is_complete(target, source.stat().st_size, sha256):
                if self._path.startswith("/"):  # elsewhere a bucket comes first, which a mistyped name must not create
                    self._system.makedirs(self._path, exist_ok=True)
                with source.open("rb") as reader, self._open(target, source.stat().st_size) as writer:
                    sent = _hash(reader, source.stat().st_size, "sending", writer.write)
                if sent != sha256:
                    hint = "publish it again when it is whole"
                    raise PublishError(f"{source}: it changed while it was published", hint)
            if not rank.is_high(name, self._identify(target)):
                time.sleep(_GRAIN_S)
            if not self._mark(target, rank, write_marker(rank, {})):
                # A higher generation, as no marker's time can be chosen there.
                rank = replace(rank, generation=rank.generation + 1, above=None)
                self._mark(target, rank, write_marker(rank, {}))
        return {"generation": rank.generation, "outranked_by": rank.outranked_by}

    def _open(self, target: str, size_bytes: int) -> Any:
        if size_bytes > _PART_BYTES and hasattr(self._system, "call_s3"):
            with contextlib.suppress(OSError):  # a store, or rights, that list no uploads
                return _S3Upload(self._system, target, size_bytes)
        return self._system.open(target, "wb")

    def _mark(self, target: str, rank: Rank, marker: bytes) -> bool:
        """Write the marker, and return whether it has the rank that it was to have."""
        self._system.pipe_file(target + MARKER_SUFFIX, marker)
        return rank.is_high(target.rpartition("/")[2], self._identify(target + MARKER_SUFFIX))

    def _identify(self, path: str) -> Identity:
        self._system.invalidate_cache()
        return remote.identify(self._system.info(path))

    def _is_complete(self, target: str, size_bytes: int, sha256: str) -> bool:
        if not self._system.exists(target) or self._system.size(target) != size_bytes:
            return False
        with self._system.open(target, "rb", cache_type="none") as reader:
            return _hash(reader, size_bytes, "checking") == sha256


class _S3Upload:
    """A file that is written to S3 in parts; those that an upload which was stopped has left are not sent again."""

    def __init__(self, system: Any, target: str, size_bytes: int) -> None:
        self._call, (bucket, key, _) = system.call_s3, system.split_path(target)
        begun = self._call("list_multipart_uploads", Bucket=bucket, Prefix=key).get("Uploads", ())
        known = [upload["UploadId"] for upload in begun if upload["Key"] == key]
        self._at = {"Bucket": bucket, "Key": key}
        self._at["UploadId"] = known[0] if known else self._call("create_multipart_upload", **self._at)["UploadId"]
        self._left, place = {}, 0
        while True:
            page = self._call("list_parts", **self._at, PartNumberMarker=place)
            self._left.update({part["PartNumber"]: part["ETag"] for part in page.get("Parts", ())})
            if not page.get("IsTruncated"):
                break
            place = int(page["NextPartNumberMarker"])
        # S3 takes ten thousand parts at most.
        self._part_bytes, self._held = max(_PART_BYTES, -(-size_bytes // 10_000)), bytearray()
        self._parts: list[dict[str, object]] = []

    def write(self, data: bytes) -> None:
        """Take some bytes, and send what makes a part."""
        self._held += data
        while len(self._held) >= self._part_bytes:
            self._send(self._part_bytes)

    def _send(self, count: int) -> None:
        part, number = bytes(self._held[:count]), len(self._parts) + 1
        del self._held[:count]
        tag = f'"{hashlib.md5(part, usedforsecurity=False).hexdigest()}"'
        if self._left.get(number) != tag:  # or it is encrypted with a key, so that its tag is another one
            tag = self._call("upload_part", **self._at, PartNumber=number, Body=part)["ETag"]
        self._parts.append({"PartNumber": number, "ETag": tag})

    def __enter__(self) -> _S3Upload:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            if self._held:
                self._send(len(self._held))
            self._call("complete_multipart_upload", **self._at, MultipartUpload={"Parts": self._parts})


def _hash(reader: Any, size_bytes: int, what: str, write: Callable[[bytes], object] | None = None) -> str:
    """Return the sha256 of a file, which may be written elsewhere meanwhile, and tell a terminal how far it is."""
    digest, done_bytes, is_watched = hashlib.sha256(), 0, sys.stderr.isatty()
    while chunk := reader.read(durable_files.CHUNK_BYTES):
        digest.update(chunk)
        if write is not None:
            write(chunk)
        done_bytes += len(chunk)
        if is_watched:
            share = min(done_bytes / max(size_bytes, 1), 1.0)
            bar = ("#" * int(share * 30)).ljust(30)
            sys.stderr.write(f"\r{what} [{bar}] {share:4.0%} of {size_bytes / 1e6:,.1f} MB")
            sys.stderr.flush()
    if is_watched:
        sys.stderr.write("\n")
    return digest.hexdigest()
