"""How the bodies of one form of request differ: in the numbers of one tensor, and in nothing else.

A dialect gives the layout of a request that it has understood. The numbers of several such requests are read as one
array, and what differs in their answers is written from one array."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import numpy as np

from serve.codec import datatypes, strict_json
from serve.errors import InputError, RequestError, excerpt

if TYPE_CHECKING:
    from serve.codec.datatypes import Array
    from serve.model.torch_predictor import TorchPredictor

Write = Callable[["Array", int], Sequence[bytes]]
# Numbers and what separates them: text of nothing else, read together with others, can break none of them.
_NUMERIC = b"-+0123456789.eE, \t\r\n"
# What is in the place of the numbers in a probe: as a list, and as the only row of a matrix. No list of numbers is it.
FLAT, MATRIX = ["numbers"], [["numbers"]]


class BodyLayout(NamedTuple):
    """What all bodies of a form have in common."""

    name: str  # of the input
    datatype: str  # of the numbers, as the Open Inference Protocol names it; empty for the rows of native JSON
    shape: tuple[int, ...]  # of the array of one request; its first length is the rows
    before: bytes
    after: bytes
    write: Write  # what differs in the answer of each of so many requests, of their rows; raises `ValueError`
    size_bytes: int = 0  # of the numbers, where they are the bytes of the array; 0 where they are text of any length
    is_first: bool = False  # whether what differs is at the first place in an answer where its bytes are, not the last

    def fits(self, numbers: bytes) -> bool:
        """Whether what is between `before` and `after` are numbers, as many as the shape has."""
        if self.size_bytes:
            return len(numbers) == self.size_bytes
        return numbers.count(b",") + 1 == math.prod(self.shape) and not numbers.translate(None, _NUMERIC)

    def read(self, several: Sequence[bytes], predictor: TorchPredictor) -> Any:
        """Turn numbers of several requests into what the module takes; raises `InputError` where some do not fit."""
        if self.size_bytes:
            joined = several[0] if len(several) == 1 else b"".join(several)
            array = np.frombuffer(joined, datatypes.DTYPES[self.datatype]).reshape(-1, *self.shape[1:])
            return predictor.prepare_arrays({self.name: array})
        try:
            rows = strict_json.parse(b"[[%b]]" % b"],[".join(several))
            if set(map(len, rows)) != {math.prod(self.shape)}:
                raise InputError(f"the {self.name}: expected other lengths, found {excerpt(rows)}")
            if not self.datatype:
                return predictor.prepare(rows)
            flat, shape = list(itertools.chain.from_iterable(rows)), (len(several) * self.shape[0], *self.shape[1:])
            return predictor.prepare_arrays({self.name: datatypes.from_json(flat, self.datatype, shape, self.name)})
        except RequestError as error:
            raise InputError(error.message) from error


class Hole(NamedTuple):
    """Where a JSON text has its last list of numbers. `probe`: the content of the text with `FLAT` for that list."""

    before: bytes
    after: bytes
    length: int
    probe: Any


def find_numbers(text: bytes) -> Hole | None:
    """Find the last list of numbers in a JSON text."""
    begin = text.rfind(b"[") + 1
    end = text.find(b"]", begin)
    if not 0 < begin < end or text[begin:end].translate(None, _NUMERIC):
        return None
    before, after = text[:begin], text[end:]
    return Hole(before, after, text.count(b",", begin, end) + 1, strict_json.parse(before + b'"numbers"' + after))


def write_bytes(array: Array, count: int) -> list[bytes]:
    """Write the bytes of the outputs of each request."""
    joined = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    size = len(joined) // count
    return [joined[start : start + size] for start in range(0, len(joined), size)] if size else [b""] * count


def write_flat(array: Array, count: int) -> list[bytes]:
    """Write the outputs of each request as a list of numbers in JSON."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("expected finite numbers, found NaN or infinity")
    rows = np.ascontiguousarray(array.reshape(count, -1), array.dtype.newbyteorder("="))
    return [strict_json.dump(row) for row in rows]


def write_lists(array: Array, count: int) -> list[bytes]:
    """Write the outputs of each request as nested lists in JSON."""
    lists, rows = array.tolist(), len(array) // count
    return [strict_json.dump(lists[start : start + rows]) for start in range(0, len(lists), rows)]
