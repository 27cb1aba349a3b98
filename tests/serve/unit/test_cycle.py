"""A prediction's cycle: its memory goes when the prediction is over."""

from __future__ import annotations

import gc
import weakref

import pytest

pytest.importorskip("uvicorn", reason="the extra [fast] is not in this interpreter")

from serve.workers.http_protocol import RequestCycle
from serve.workers.request_head import Head


def cycle():
    return RequestCycle(Head(None, "/predict", is_plain=True), keep_alive=True)


@pytest.fixture
def no_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Watched(RequestCycle):
    __slots__ = ("__weakref__",)


def test_a_cycle_is_no_garbage_for_the_collector(no_collection):
    own = Watched(Head(None, "/predict", is_plain=True), keep_alive=True)
    own.body.append(b"x")
    seen = weakref.ref(own)
    del own
    assert seen() is None


@pytest.mark.parametrize("parts", [[], [b"one"], [b"tw", b"o"]])
def test_a_body_is_taken_once(parts):
    own = cycle()
    own.body.extend(parts)
    assert own.take_body() == b"".join(parts)
    assert own.take_body() == b""
