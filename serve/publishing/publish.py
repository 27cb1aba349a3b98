"""Publishing of a checkpoint: converted where it can be, whole, synced, and marked last.

What safetensors wrote stays byte for byte what it was, unless its names are to be shortened. At no moment do a marker
and a checkpoint lie side by side that do not belong together: the old marker goes before the new bytes come."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, Union

from serve import durable_files
from serve.checkpoint import sharded
from serve.checkpoint.formats import EXPORT, SAFETENSORS, TORCH, TORCHSCRIPT, detect_format, read_safetensors_interface
from serve.checkpoint.manifest import parse_marker, read_object
from serve.checkpoint.provenance import WORD
from serve.checkpoint.signature import OPENSSF, SIDECARS, sign, sign_openssf
from serve.errors import CheckpointError, PublishError
from serve.publishing.remote_publish import MlflowTarget, Rank, RemotePlace, find_place, find_rank, split_place
from serve.source.local import MARKER_LIMIT_BYTES, LocalSource
from serve.source.observation import MARKER_SUFFIX

_SHORT_SHA256 = 12


@dataclass(frozen=True)
class Published:
    """What was published; `notes`: what was done to its weights for that; `outranked_by`: what is served instead."""

    checkpoint: str
    sha256: str
    size: int
    version: str
    created: str
    format: str
    generation: int = 0
    outranked_by: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Extras:
    """What a marker may state beside what `publish` finds out."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    golden: Path | None = None
    golden_from: str | None = None  # `recorded`: out of what the server of the settings has recorded
    model: str | None = None  # which of the settings computes answers that the file leaves out
    key: Path | None = None
    convert: bool | None = None  # whether what torch.save wrote becomes safetensors; `None` where that is safe
    generation: int = 0
    weights_key: str | None = None
    strip_prefix: str | None = None
    check: bool = False  # whether the model class of the settings must take it before anything is written
    openssf_key: Path | None = None


_NOTHING = Extras()
Elsewhere = Union[RemotePlace, MlflowTarget]


def publish(
    source: Path, directory: Path | str, name: str | None = None, version: str | None = None, extras: Extras = _NOTHING
) -> Published:
    """Publish a file, the index where it is sharded, as a checkpoint. `directory` is the watched place as the setting
    `checkpoints` has it: a directory, created when absent, one checkpoint, whose name ends as such names do, or a URL
    of either. By default the name is the source's, and the version the start of its sha256. Raises `PublishError` or
    `SignatureError`, with nothing changed, unless a place on another machine failed later: it has no marker then."""
    directory, name = split_place(str(directory), name)
    for what, given in (("name", name), ("version", version)):
        if given is not None and not WORD.fullmatch(given):
            raise PublishError(f"the {what}: expected letters, digits and ._+-, found {given!r}")
    if name is not None and name.endswith(MARKER_SUFFIX):
        raise PublishError(f"the name: expected a checkpoint, found the name of a marker, {name!r}")
    place = find_place(directory)
    how = Conversion(extras.convert, extras.weights_key, extras.strip_prefix)
    try:
        if sharded.is_index(source) and isinstance(place, Path) and how.key is None and how.prefix is None:
            return _publish_sharded(source, place, name or source.name, version, extras)
        with prepare(source, how) as ready:
            name = sharded.joined_name(name or ready.name)
            if isinstance(place, Path):
                published = _publish_file(ready.path, place / name, version, extras)
            else:
                published = _publish_remote(ready.path, place, name, version, extras)
            return replace(published, notes=ready.notes + published.notes)
    except CheckpointError as error:
        hint = error.hint or "publish what torch.save or safetensors wrote"
        raise PublishError(f"{source}: {error.message}", hint=hint) from error
    except OSError as error:
        hint = "check the path and its rights"
        raise PublishError(f"{error.filename or source}: {error.strerror}", hint) from error


def _examine(source: Path, extras: Extras) -> tuple[str, dict[str, object]]:
    format = detect_format(source)
    if format == SAFETENSORS:
        read_safetensors_interface(source)
    return format, _find_extras(extras, source)


def _publish_remote(source: Path, place: Elsewhere, name: str, version: str | None, extras: Extras) -> Published:
    format, found = _examine(source, extras)
    sha256, size_bytes = durable_files.hash_file(source), source.stat().st_size
    published = _describe(f"{place.shown}/{name}", sha256, size_bytes, version, format, Rank(0))

    def write_marker(rank: Rank, more: Mapping[str, Any]) -> bytes:
        metrics = {**more.get("metrics", {}), **extras.metrics}
        stated = {**found, **more, **({"metrics": metrics} if metrics else {})}
        return _write_marker(replace(published, generation=rank.generation), stated, extras)

    return replace(published, **place.put(source, name, sha256, extras.generation, write_marker))


def _publish_file(source: Path, target: Path, version: str | None, extras: Extras) -> Published:
    format, found = _examine(source, extras)
    with _copy(source, target) as copied:
        rank = find_rank(LocalSource(target.parent), extras.generation)
        published = _describe(str(target), copied.sha256, copied.size_bytes, version, format, rank)
        marker = _write_marker(published, found, extras)
        _unmark(target)
    bundle = read_object(marker).get(OPENSSF)
    if bundle is not None:  # for the programs of others
        durable_files.replace_file(target.with_name(target.name + SIDECARS[0]), json.dumps(bundle).encode())
    durable_files.sync_directory(target.parent)
    durable_files.replace_file(_marker_of(target), marker, after_ns=rank.after_ns)
    return published


def _publish_sharded(source: Path, directory: Path, name: str, version: str | None, extras: Extras) -> Published:
    if not name.endswith(sharded.INDEX_SUFFIX):
        raise PublishError(f"the name: expected one that ends with {sharded.INDEX_SUFFIX}, found {name!r}")
    needs_one_file = extras.check or extras.golden is not None or extras.golden_from is not None
    with prepare(source, Conversion()) if needs_one_file else contextlib.nullcontext(Ready(source, name)) as ready:
        found = _find_extras(extras, ready.path)
    target = directory / name
    sha256 = sharded.hash_joined(source)
    weight_map = sharded.read_index(source)
    shards = sorted(set(weight_map.values()))
    stem = name[: -len(sharded.INDEX_SUFFIX)]  # not overwriting those of another version: each index has its own
    names = {shard: f"{stem}-{place:05}-of-{len(shards):05}.safetensors" for place, shard in enumerate(shards, 1)}
    metadata = json.loads(source.read_bytes()).get("metadata", {})
    index = {"metadata": metadata, "weight_map": {tensor: names[shard] for tensor, shard in weight_map.items()}}
    text = json.dumps(index, indent=2).encode() + b"\n"
    size_bytes = len(text) + sum(shard.stat().st_size for shard in shards)
    rank = find_rank(LocalSource(directory), extras.generation)
    published = _describe(str(target), sha256, size_bytes, version, SAFETENSORS, rank)
    marker = _write_marker(published, found, extras)
    _unmark(target)
    for shard in shards:
        with _copy(shard, directory / names[shard]):
            pass
    durable_files.replace_file(target, text)
    durable_files.replace_file(_marker_of(target), marker, after_ns=rank.after_ns)
    return published


@contextlib.contextmanager
def _copy(source: Path, target: Path) -> Iterator[durable_files.Copied]:
    """Copy a file beside its target, whose place it takes at the end of the block."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = durable_files.temporary_beside(target)
    temporary.unlink(missing_ok=True)
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield durable_files.copy_hashed(descriptor, temporary)
        temporary.replace(target)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def _marker_of(target: Path) -> Path:
    return target.with_name(target.name + MARKER_SUFFIX)


def _unmark(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _marker_of(target).unlink(missing_ok=True)
    target.with_name(target.name + SIDECARS[0]).unlink(missing_ok=True)
    durable_files.sync_directory(target.parent)


def _describe(place: str, sha256: str, size_bytes: int, version: str | None, format: str, rank: Rank) -> Published:
    version, created = version or sha256[:_SHORT_SHA256], datetime.now(timezone.utc).isoformat(timespec="microseconds")
    return Published(place, sha256, size_bytes, version, created, format, rank.generation, rank.outranked_by)


def _find_extras(extras: Extras, checkpoint: Path) -> dict[str, object]:
    found: dict[str, object] = {"metrics": dict(extras.metrics)} if extras.metrics else {}
    if not (extras.check or extras.golden or extras.golden_from):
        return found
    from serve.publishing import golden  # brings numpy

    if extras.check:
        golden.check(checkpoint, extras.model)
    if extras.golden is not None:
        found["golden"] = golden.read_golden(extras.golden, checkpoint, extras.model)
    elif extras.golden_from is not None:
        found["golden"] = golden.record_golden(checkpoint, extras.model)
    return found


def _write_marker(published: Published, found: Mapping[str, object], extras: Extras) -> bytes:
    """Write the marker's text, and read it as a server will, before anything is changed."""
    keys = ("sha256", "size", "version", "created", "format")
    stated: dict[str, object] = {key: getattr(published, key) for key in keys}
    stated.update({"generation": published.generation} if published.generation else {}, **found)
    if extras.key is not None:
        stated["signature"] = sign(stated, extras.key)
    if extras.openssf_key is not None:
        stated[OPENSSF] = sign_openssf(Path(published.checkpoint).name, published.sha256, extras.openssf_key)
    text = json.dumps(stated, indent=1).encode() + b"\n"
    parse_marker(text)
    if len(text) > MARKER_LIMIT_BYTES:
        hint = "give fewer or smaller golden requests"
        raise PublishError(f"the marker: expected at most {MARKER_LIMIT_BYTES} bytes, found {len(text)}", hint)
    return text


_NO_TORCH = "torch is not installed here"
_PROGRAM = 'a server takes it only with format = "{format}"{more}'


class Conversion(NamedTuple):
    """What may become of a file on its way."""

    wanted: bool | None = None  # whether what torch.save wrote becomes safetensors; `None`: where that is safe
    key: str | None = None  # under which the weights lie in it, joined by dots; `None` where it is clear
    prefix: str | None = None  # taken off the tensors' names, without those that lack it; `None` for a known wrapper's

    @property
    def is_stated(self) -> bool:
        """Whether the file must be changed."""
        return bool(self.wanted or self.key is not None or self.prefix is not None)


class Ready(NamedTuple):
    """A file that is ready to be published. `name`: that of the source, with the suffix of what it has become."""

    path: Path
    name: str
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def prepare(source: Path, how: Conversion) -> Iterator[Ready]:
    """Give the file to publish, gone afterwards if it was made; raises `CheckpointError` or `PublishError`."""
    if sharded.is_index(source):
        with tempfile.TemporaryDirectory(prefix="envserve-") as directory:
            yield _join(source, Path(directory), how)
        return
    format = detect_format(source)
    if format == TORCH and how.wanted is False and not (how.key or how.prefix):
        yield Ready(source, source.name, notes=("not converted, as --no-convert states",))
    elif format in (TORCHSCRIPT, EXPORT):
        more = ", and by its sha256 in allowed_pickles or signed" if format == EXPORT else ""
        yield Ready(source, source.name, notes=(_PROGRAM.format(format=format, more=more),))
    elif format == SAFETENSORS and how.key is None and how.prefix is None:
        yield Ready(source, source.name)
    elif importlib.util.find_spec("torch") is None:
        if how.is_stated:
            hint = "run it where the model was trained"
            raise PublishError(f"{source}: it cannot be converted: {_NO_TORCH}", hint)
        yield Ready(source, source.name, notes=(f"not converted: {_NO_TORCH}",))
    else:
        with tempfile.TemporaryDirectory(prefix="envserve-") as directory:
            yield _convert(source, format, Path(directory), how)


def _join(index: Path, directory: Path, how: Conversion) -> Ready:
    if how.key is not None:
        raise PublishError(f"{index}: --key: expected one file, found an index of shards", hint="give --strip-prefix")
    joined = directory / "joined.safetensors"
    sharded.join_hashed(index, joined, how.prefix or "")
    took_off = [f'took off "{how.prefix}"'] if how.prefix else []
    return Ready(joined, sharded.joined_name(index.name), ("joined the shards into one file", *took_off))


def _convert(source: Path, format: str, directory: Path, how: Conversion) -> Ready:
    from serve.publishing import conversion  # brings torch

    alias = directory / "source"  # torch.load goes by the suffix where it is that of safetensors
    alias.symlink_to(source.absolute())
    target = directory / "converted.safetensors"
    try:
        done = conversion.convert(alias, format, target, bool(how.wanted), how.key, how.prefix)
    except CheckpointError as error:
        # Some servers may unpickle it, and it may be what no safetensors can hold; all else is wrong everywhere.
        if how.is_stated or error.code not in ("pickle", conversion.UNFIT):
            raise
        hint = f" ({error.hint})" if error.code == "pickle" else ""
        return Ready(source, source.name, (f"not converted: {error.message}{hint}",))
    notes = (*(["converted to safetensors"] if format == TORCH else []), *done)
    return Ready(target, source.with_suffix(".safetensors").name, notes)
