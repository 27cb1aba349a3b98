"""Sharded safetensors: an index and the files that it names, as Hugging Face's libraries write them.

The marker belongs to the index. A sharded checkpoint is the same as the one file that holds its tensors: the store
joins it into that file, and its sha256 is that of the joined file, so that everything that is served is covered by it.
Its layout is fixed, and stated in `docs/reference/checkpoints.md`, so anybody can compute it. Metadata of the shards is
left out. Writing shards is out of scope; `serve.publishing.publish` copies what a trainer wrote."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from serve import durable_files
from serve.checkpoint.formats import Piece, TensorSpec, read_pieces, read_safetensors_interface, strip_prefix
from serve.errors import CheckpointError

INDEX_SUFFIX = ".safetensors.index.json"
INDEX_LIMIT_BYTES = 64 * 1024 * 1024
_ALIGNMENT_BYTES = 8


def is_index(path: Path) -> bool:
    """Whether a checkpoint is the index of shards, by its name."""
    return path.name.endswith(INDEX_SUFFIX)


def read_index(path: Path) -> dict[str, Path]:
    """Read which shard holds which tensor; raises what `parse_index` does."""
    with path.open("rb") as reader:
        return parse_index(reader.read(INDEX_LIMIT_BYTES + 1), path)


def parse_index(text: bytes, path: Path) -> dict[str, Path]:
    """Parse which shard holds which tensor; raises `CheckpointError` for no index, and shards that lie elsewhere."""
    try:
        weight_map = json.loads(text)["weight_map"]
        pairs = dict(weight_map.items())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError("damaged", f'{path.name}: expected {{"weight_map": …}}, found {error!r}') from error
    for shard in set(map(str, pairs.values())):
        if Path(shard).name != shard or shard.startswith(".") or not shard.endswith(".safetensors"):
            raise CheckpointError("damaged", f"{path.name}: expected shards beside it, found {shard[:80]!r}")
    return {str(name): path.with_name(str(shard)) for name, shard in pairs.items()}


def look(path: Path) -> os.stat_result | None:
    """Look at an index and its shards as at one file, as new as the newest; `None` when one of them is not found."""
    try:
        own = path.stat()
        shards = [shard.stat() for shard in sorted(set(read_index(path).values()))]
    except FileNotFoundError:
        return None
    except CheckpointError:
        return own  # what is wrong with it is said when it is read
    newest = max((own, *shards), key=lambda seen: seen.st_mtime_ns)
    size_bytes = own.st_size + sum(seen.st_size for seen in shards)
    fields = [*own[:6], size_bytes, own[7], newest.st_mtime, own[9]]
    precise = {"st_mtime_ns": newest.st_mtime_ns, "st_atime_ns": own.st_atime_ns, "st_ctime_ns": own.st_ctime_ns}
    return os.stat_result(fields, precise)


def joined_name(name: str) -> str:
    """Return the name that a joined file has instead of its index's."""
    return name[: -len(INDEX_SUFFIX)] + ".safetensors" if name.endswith(INDEX_SUFFIX) else name


def plan(path: Path, prefix: str = "") -> list[Piece]:
    """Find every tensor, in the joined file's order; raises `CheckpointError` where the shards are not the index's."""
    weight_map = read_index(path)
    pieces: dict[str, Piece] = {}
    for shard in sorted(set(weight_map.values())):
        try:
            found = read_pieces(shard)
        except CheckpointError as error:
            raise CheckpointError(error.code, f"{shard.name}: {error.message}") from error
        for piece in found:
            if weight_map.get(piece.name) != shard:
                raise CheckpointError("damaged", f"{piece.name}: not in the index, found in {shard.name}")
            pieces[piece.name] = piece
    missing = sorted(set(weight_map) - set(pieces))
    if missing:
        name = missing[0]
        raise CheckpointError("damaged", f"{name}: expected in {weight_map[name].name}, found nothing")
    if prefix:
        pieces = {new: replace(pieces[old], name=new) for new, old in strip_prefix(pieces, prefix).items()}
    # Tensors with the widest numbers first.
    widths = {name: piece.size_bytes // (math.prod(piece.spec.shape) or 1) for name, piece in pieces.items()}
    return sorted(pieces.values(), key=lambda piece: (-widths[piece.name], piece.name))


def read_interface(path: Path) -> dict[str, TensorSpec]:
    """Read names, dtypes and shapes of safetensors from their header, or from the headers of shards."""
    if not is_index(path):
        return read_safetensors_interface(path)
    return {piece.name: piece.spec for piece in plan(path)}


def header_of(pieces: list[Piece]) -> bytes:
    """Write the header of the joined file, with its length before it."""
    entries: dict[str, Mapping[str, object]] = {}
    end = 0
    for piece in pieces:
        begin, end = end, end + piece.size_bytes
        spec = piece.spec
        entries[piece.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return struct.pack("<Q", len(text)) + text


def chunks_of(path: Path, prefix: str = "") -> Iterator[bytes]:
    """Read a sharded checkpoint as the joined file."""
    pieces = plan(path, prefix)
    yield header_of(pieces)
    for piece in pieces:
        remaining = piece.size_bytes
        with piece.file.open("rb") as reader:
            reader.seek(piece.begin)
            while remaining:
                chunk = reader.read(min(durable_files.CHUNK_BYTES, remaining))
                if not chunk:
                    raise CheckpointError("damaged", f"{piece.file.name}: it is shorter than its header states")
                remaining -= len(chunk)
                yield chunk


def join_hashed(path: Path, target: Path, prefix: str = "") -> durable_files.Copied:
    """Write the joined file as `durable_files.write_hashed` does; raises `OSError`, with `target` there in part."""
    return durable_files.write_hashed(chunks_of(path, prefix), target)


def hash_joined(path: Path) -> str:
    """Return the sha256 of a sharded checkpoint."""
    digest = hashlib.sha256()
    for chunk in chunks_of(path):
        digest.update(chunk)
    return digest.hexdigest()
