"""Files of this machine by their URL, whole or a part of one.

A part, `file:///srv/serving.pyz#bytes=512-1536`, lets what lies in a container be fetched and proven like any file
that lies on its own. The second number is the position behind the last byte.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from envtool.fetch.transfer_error import TransferError

_PART = re.compile(r"bytes=(\d+)-(\d+)")


def part_url(path: Path, start: int, size_bytes: int) -> str:
    """The URL of a part of a file."""
    return f"{path.absolute().as_uri()}#bytes={start}-{start + size_bytes}"


@contextmanager
def read(url: str, offset: int, chunk_bytes: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Open a file or a part of one.

    Args:
        offset: the first byte that is wanted, counted from the beginning of the part.

    Yields:
        The size of the whole part, and the bytes from the offset on.
    """
    # The caller's own errors pass through here as well, so that only opening may be caught.
    with _open(url) as file:
        part = _PART.fullmatch(urlsplit(url).fragment)
        start, end = (int(part[1]), int(part[2])) if part else (0, file.seek(0, os.SEEK_END))
        file.seek(start + offset)
        yield end - start, _chunks(file, end - start - offset, chunk_bytes)


def _open(url: str) -> BinaryIO:
    try:
        return Path(unquote(urlsplit(url).path)).open("rb")
    except OSError as error:
        raise TransferError(error.strerror or str(error), is_transient=False) from error


def _chunks(file: BinaryIO, left_bytes: int, chunk_bytes: int) -> Iterator[bytes]:
    try:
        while left_bytes > 0 and (chunk := file.read(min(chunk_bytes, left_bytes))):
            left_bytes -= len(chunk)
            yield chunk
    except OSError as error:
        raise TransferError(error.strerror or str(error), is_transient=False) from error
