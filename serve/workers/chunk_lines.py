"""The lines between the chunks of a body, in the plain form that httptools reads.

RFC 9112, 7.1.1: blanks around the parts of a chunk extension are to be read and removed, and an extension that means
nothing to the recipient is ignored. httptools refuses such blanks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Callable

_END = b"\r\n"
_LONGEST_BYTES = 4096
_HEAD_END = b"\r\n\r\n"
# A segment of an ordinary request: it is searched as a whole, which is quicker than to part head and body.
_SMALL_BYTES = 2048
# A size, and extensions of visible characters and blanks.
_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")


class ChunkLines:
    """Rewrites the lines of one body; the chunks themselves pass as they are."""

    def __init__(self) -> None:
        self._line, self._left = b"", 0
        self.is_over = False

    def rewrite(self, data: bytes) -> tuple[bytes, bytes]:
        """Rewrite what came of a body; return what the parser is given, and what follows the line of the last chunk."""
        found = []
        while data and not self.is_over:
            if self._left:
                found.append(data[: self._left])
                data, self._left = data[self._left :], max(0, self._left - len(data))
                continue
            begun = len(self._line)
            line = self._line + data[:_LONGEST_BYTES]
            end = line.find(_END)
            if end < 0 and len(line) <= _LONGEST_BYTES:
                self._line = line
                return b"".join(found), b""
            line = line[: end + len(_END)] if end >= 0 else line
            data, self._line = data[len(line) - begun :], b""
            stated = _LINE.fullmatch(line)
            # What is no such line is the parser's to refuse, and what follows it as well.
            found.append(stated.group(1) + _END if stated else line)
            size = int(stated.group(1), 16) if stated else 0
            self._left, self.is_over = size + len(_END), size == 0
        return b"".join(found), data


class Splitter:
    """Cuts what comes on a connection behind the heads of requests, and rewrites the lines of chunks from there on."""

    def __init__(self) -> None:
        self._lines: ChunkLines | None = None
        self._tail, self._is_cut = b"", False

    def split(self, data: bytes, is_in_head: bool, is_in_body: bool, left: Callable[[], int]) -> Iterator[bytes]:
        """Yield the pieces for the parser, which is given each before the next one is made.

        A head, or a body, may have begun in an earlier segment. `left` tells how many bytes of a body of known length
        are still to come: no head begins in them.
        """
        known = self._tail if is_in_head else b""
        self._tail = (known + data[1 - len(_HEAD_END) :])[1 - len(_HEAD_END) :]
        is_begun = is_in_head or is_in_body or self._lines is not None
        if not is_begun and len(data) <= _SMALL_BYTES and b"chunked" not in data.lower():
            self._is_cut = False
            yield data
            return
        while data:
            if self._lines is not None:
                piece, data = self._lines.rewrite(data)
                self._lines = None if self._lines.is_over else self._lines
            else:
                body = 0 if is_in_head else left()
                end = body or (known + data).find(_HEAD_END) + len(_HEAD_END) - len(known)
                self._is_cut = not body and end > len(_HEAD_END) - 1 - len(known)
                piece, data = (data[:end], data[end:]) if body or self._is_cut else (data, b"")
            known, is_in_head = b"", False
            if piece:
                yield piece

    def note_head(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        """Note that the parser has read the head of a request."""
        if self._is_cut and any(name == b"transfer-encoding" for name, _ in fields):
            self._lines = ChunkLines()
