"""Safetensors bodies: several named arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from serve.codec.datatypes import Array
from serve.errors import RequestError

CONTENT_TYPES = ("application/x-safetensors", "application/vnd.safetensors", "application/safetensors")


def decode(body: bytes) -> dict[str, Array]:
    """Read named arrays; raises `RequestError`: it is damaged, empty, or holds a dtype that numpy does not have."""
    try:
        arrays: dict[str, Array] = load(body)
    except (SafetensorError, ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
        raise RequestError(400, f"the safetensors body: expected named arrays of numbers, found {error}") from error
    if not arrays:
        raise RequestError(400, "the safetensors body: expected at least one array, found none")
    return arrays


def encode(arrays: Mapping[str, Array]) -> bytes:
    """Write named arrays."""
    body: bytes = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    return body
