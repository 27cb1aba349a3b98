"""On the trainer's side: the file that is published. It is the source's own, or safetensors that were made from it.

What safetensors wrote stays byte for byte what it was, unless its names are to be shortened.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from serve.checkpoint import sharded
from serve.checkpoint.formats import EXPORT, SAFETENSORS, TORCH, TORCHSCRIPT, detect_format
from serve.errors import CheckpointError, PublishError

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

    # torch.load goes by the suffix where it is that of safetensors.
    alias = directory / "source"
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
    return Ready(
        target,
        source.with_suffix(".safetensors").name,
        (*(["converted to safetensors"] if format == TORCH else []), *done),
    )
