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

_SPEED = 6
_ANSWER = "c5a834fda757a99f89b3f1af09f72fa53fe98c052ea2ccc1b21dfb62702f0a42"


def is_zlib() -> bool:
    """Whether this Python compresses as zlib does, by what it makes of a text that others make something else of."""
    text = "".join(hashlib.sha256(b"%d" % (number % 700)).hexdigest() for number in range(1500)).encode()
    packer = zlib.compressobj(_SPEED, zlib.DEFLATED, -zlib.MAX_WBITS)
    return hashlib.sha256(packer.compress(text) + packer.flush()).hexdigest() == _ANSWER


def pack(source: str, target: str) -> None:
    """Compress a file."""
    with Path(source).open("rb") as reading, Path(target).open("wb") as file:
        packed = gzip.GzipFile("", "wb", _SPEED, file, mtime=0)
        shutil.copyfileobj(reading, packed, 1 << 20)
        packed.close()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(not is_zlib())
    pack(*sys.argv[1:])
