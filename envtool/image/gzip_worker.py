"""Compression of layers that gives the same bytes on every machine: by zlib itself, of which all releases agree. A
Python may have zlib-ng or another one instead; layers are then compressed by the environment's own Python, which runs
this file as a program. Source: RFC 1952."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import sys
import zlib
from pathlib import Path
from typing import BinaryIO

_SPEED = 6
_ANSWER = "c5a834fda757a99f89b3f1af09f72fa53fe98c052ea2ccc1b21dfb62702f0a42"


def is_zlib() -> bool:
    """Whether this Python compresses as zlib does, by what it makes of a text that others make something else of."""
    text = "".join(hashlib.sha256(b"%d" % (number % 700)).hexdigest() for number in range(1500)).encode()
    packer = zlib.compressobj(_SPEED, zlib.DEFLATED, -zlib.MAX_WBITS)
    return hashlib.sha256(packer.compress(text) + packer.flush()).hexdigest() == _ANSWER


def packing(file: BinaryIO) -> gzip.GzipFile:
    """What writes to a file compressed what is written to it."""
    return gzip.GzipFile("", "wb", _SPEED, file, mtime=0)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(not is_zlib())
    with Path(sys.argv[1]).open("rb") as reading, Path(sys.argv[2]).open("wb") as writing, packing(writing) as stream:
        shutil.copyfileobj(reading, stream, 1 << 20)
