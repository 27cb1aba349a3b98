"""The lines between the chunks of a body, in the plain form that httptools reads.

RFC 9112, 7.1.1: blanks around the parts of a chunk extension are to be read and removed, and an extension that means
nothing to the recipient is ignored. httptools refuses such blanks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_END = b"\r\n"
_LONGEST_BYTES = 4096
_HEAD_END = b"\r\n\r\n"
# Part of `chunked`, as clients write it; so much of a segment is searched for it.
_CHUNKED = (b"hunked", b"HUNKED")
_LOOK_BYTES = 65536
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
    """Cuts what comes on a connection behind the head of a chunked request, and rewrites the lines from there on."""

    def __init__(self) -> None:
        self._lines: ChunkLines | None = None
        self._tail, self._is_cut = b"", False

    def split(self, data: bytes, is_in_head: bool, is_in_body: bool) -> Iterator[bytes]:
        """Yield the pieces for the parser, which is given each before the next one is made.

        A head, or a body, may have begun in an earlier segment; in a body no head that matters begins.
        """
        known = self._tail if is_in_head else b""
        may_begin = is_in_head or (not is_in_body and any(data.find(word, 0, _LOOK_BYTES) >= 0 for word in _CHUNKED))
        self._tail = data[1 - len(_HEAD_END) :]
        while data:
            if self._lines is not None:
                piece, data = self._lines.rewrite(data)
                self._lines = None if self._lines.is_over else self._lines
            else:
                end = (known + data).find(_HEAD_END) + len(_HEAD_END) - len(known) if may_begin else 0
                self._is_cut = end > 0
                piece, data, known = (data[:end], data[end:], b"") if self._is_cut else (data, b"", b"")
            if piece:
                yield piece

    def note_head(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        """Note that the parser has read the head of a request."""
        if self._is_cut and any(name == b"transfer-encoding" for name, _ in fields):
            self._lines = ChunkLines()
