"""Publishing where fsspec writes, each place that `serve.source.remote` can watch, and to MLflow's registry.

The old marker goes first, then the checkpoint comes, then its marker. A checkpoint that a run left which was stopped
before its marker is proven by its bytes and not sent again; to S3, neither are the parts of one. The times of markers
are the store's own; where they cannot put one above the others, a generation does."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable

from serve import durable_files
from serve.checkpoint import sharded
from serve.errors import PublishError
from serve.settings.parsers import mlflow_alias
from serve.source import mlflow_registry, remote
from serve.source.local import Listed, LocalSource
from serve.source.observation import MARKER_SUFFIX, Identity

_READ_ONLY = frozenset({"http", "https", "github", "git", "data"})  # fsspec's writes publish nothing
_SUFFIXES = (".safetensors", sharded.INDEX_SUFFIX, ".pt", ".pth", ".ckpt", ".bin", ".pt2")
_GRAIN_S = 1.1  # S3 tells times in seconds
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

    def put(self, source: Path, name: str, sha256: str, generation: int, write_marker: WriteMarker) -> Facts:
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
        self._part_bytes, self._held = max(_PART_BYTES, -(-size_bytes // 10_000)), bytearray()  # S3 takes no more parts
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
    digest, done_bytes, is_watched = hashlib.sha256(), 0, bool(sys.stderr and sys.stderr.isatty())
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


_DIRECTORY = "envserve"
_SHORT_SHA256 = 12
_MLFLOW_HINT = "check MLFLOW_TRACKING_URI, the credentials and the rights"


@contextlib.contextmanager
def explained(shown: str, hint: str) -> Iterator[None]:
    """Have what other people's packages raise about a place, which is named so, raised as a `PublishError`."""
    try:
        yield
    except PublishError:
        raise
    except Exception as error:  # a missing package, a transport's, each protocol's own
        # Not `message`, which some have too: beside it their texts have a status, an URL, a request's id.
        reason = str(error) or type(error).__name__
        raise PublishError(f"{shown}: {reason}", hint=getattr(error, "hint", None) or hint) from error


class MlflowTarget:
    """An alias of a registered model, moved last; raises `PublishError` where MLflow cannot open its registry."""

    def __init__(self, name: str, alias: str) -> None:
        self._name, self._alias = name, alias
        self.shown = f"models:/{name}"  # as messages name it
        with explained(self.shown, _MLFLOW_HINT):
            self._client: Any = mlflow_registry.open_client()

    def put(self, source: Path, name: str, sha256: str, generation: int, write_marker: WriteMarker) -> Facts:
        """Register a checkpoint, as `RemotePlace.put`; after a `PublishError` the alias names what it did before."""
        rank = Rank(generation)
        write_marker(rank, {})
        with explained(self.shown, _MLFLOW_HINT), tempfile.TemporaryDirectory(prefix="envserve-") as directory:
            run, is_own = self._open_run()
            run_id, place = run.info.run_id, f"{_DIRECTORY}/{sha256[:_SHORT_SHA256]}"
            named = Path(directory) / name
            named.symlink_to(source.absolute())
            self._client.log_artifact(run_id, str(named), place)
            try:
                self._client.get_registered_model(self._name)
            except Exception as error:  # MLflow's own; which one it is, is in its code
                if getattr(error, "error_code", None) not in mlflow_registry.MISSING:
                    raise
                self._client.create_registered_model(self._name)
            version = self._client.create_model_version(self._name, f"{run.info.artifact_uri}/{place}", run_id).version
            more = {"version": str(version), **mlflow_registry.describe(self._name, version, run_id)}
            marker = named.with_name(name + MARKER_SUFFIX)
            marker.write_bytes(write_marker(rank, {**more, "metrics": mlflow_registry.metrics_of(run)}))
            self._client.log_artifact(run_id, str(marker), place)
            self._client.set_registered_model_alias(self._name, self._alias, str(version))
            if is_own:
                self._client.set_terminated(run_id)
        note = f"version {version} of {self._name} is {self._alias}; its run is {run_id}"
        return {"checkpoint": f"{self.shown}/{version}", "version": str(version), "notes": (note,)}

    def _open_run(self) -> tuple[Any, bool]:
        """Return the run of the trainer, or a new one, and whether it is new."""
        run_id = mlflow_registry.active_run_id() or os.environ.get("MLFLOW_RUN_ID")
        if run_id:
            return self._client.get_run(run_id), False
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
        known = self._client.get_experiment_by_name(name) if name else None
        created = self._client.create_experiment(name) if name and known is None else None
        experiment = known.experiment_id if known else created or os.environ.get("MLFLOW_EXPERIMENT_ID", "0")
        return self._client.create_run(experiment), True


# Writes the text of a marker for a rank, with what the place states beside it.
Facts = Mapping[str, Any]
WriteMarker = Callable[["Rank", Facts], bytes]


@dataclass(frozen=True)
class Rank:
    """The rank of a marker to write: later than the one `above`, if any, or `outranked_by` a higher generation. A clock
    that runs behind, or markers that came with times of their own, must not make a new checkpoint an old one."""

    generation: int
    above: Listed | None = None
    outranked_by: str | None = None

    @property
    def after_ns(self) -> int:
        """The time that its time must be later than, in nanoseconds; 0 where any will do."""
        return self.above.marker.mtime_ns if self.above is not None else 0

    def is_high(self, name: str, marker: Identity) -> bool:
        """Whether a marker that was written with this rank outranks the others."""
        order = (self.generation, marker.mtime_ns, name)
        return self.above is None or order > self.above.order


def find_rank(place: LocalSource, generation: int) -> Rank:
    """Find the rank that outranks the markers of a place; without a generation of its own it takes over the highest."""
    highest = max(place.list(), key=lambda listed: listed.order, default=None)
    if highest is None or generation > highest.generation:
        return Rank(generation)
    if generation and generation < highest.generation:
        return Rank(generation, outranked_by=highest.path.name)
    return Rank(highest.generation, highest)
