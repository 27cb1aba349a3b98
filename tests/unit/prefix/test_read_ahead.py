"""Reading ahead: the same bytes, the same errors, and no thread that stays."""

from __future__ import annotations

import io
import random
import threading
from contextlib import closing
from typing import Any

import pytest

from envtool.artifacts.conda_archive import ReadAhead

CONTENT = random.Random(1).randbytes(5_000_000)


class Breaking(io.BytesIO):
    def read(self, size: Any = -1) -> bytes:
        if self.tell() > 2_000_000:
            raise ValueError("damaged")
        return super().read(size)


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "read-ahead"]


def test_all_bytes_come_in_order() -> None:
    sizes = random.Random(2)
    with closing(ReadAhead(io.BytesIO(CONTENT))) as stream:
        pieces = []
        while piece := stream.read(sizes.randrange(1, 3_000_000)):
            pieces.append(piece)
        assert stream.read(1) == b""
    assert b"".join(pieces) == CONTENT


def test_an_error_is_raised_where_it_is_read_and_after_what_came_before_it() -> None:
    with closing(ReadAhead(Breaking(CONTENT))) as stream:
        before = sum(len(stream.read(1 << 19)) for _ in range(4))
        with pytest.raises(ValueError, match="damaged"):
            stream.read(1)
        assert before == 2 * (1 << 20)


def test_a_stream_that_is_not_read_to_its_end_leaves_no_thread() -> None:
    with closing(ReadAhead(io.BytesIO(CONTENT))) as stream:
        stream.read(1)
        assert threads()
    assert not threads()
