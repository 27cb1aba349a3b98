"""Unloading before loading, in two workers at once."""

from __future__ import annotations

import numpy
import pytest
from serving import Load, wait_until
from trainer import ROW, mark

pytestmark = pytest.mark.needs_torch


def test_requests_wait_and_the_old_model_comes_back(start_server, trainer):
    good = trainer.publish(1)
    server = start_server(memory="resource")
    server.wait_live(1)
    with Load(server, ROW) as load:
        load.wait_for_more(20)
        trainer.publish(2)
        server.wait_live(2)
        load.wait_for_more(20)
        nan = {"layer.weight": numpy.zeros((2, 4), "float32"), "layer.bias": numpy.array([0, numpy.nan], "float32")}
        path = trainer.directory / "nan.safetensors"
        path.write_bytes(trainer.write("nan.safetensors", nan).read_bytes())
        mark(path)
        server.wait_for_events("refused", 1, code="finite")
        served = server.client()
        wait_until(lambda: [served.predict([ROW]).status for _ in range(20)] == [200] * 20, "answers again")
        load.wait_for_more(20)
    assert load.failures == []
    replies = [reply for kept in load.replies for reply in kept]
    for reply in replies:
        assert reply.status in (200, 503)
        if reply.status == 503:
            assert int(reply.headers["retry-after"]) >= 1
        else:
            assert reply.json["outputs"] == [trainer.expected(reply.sha256)]
    assert {reply.generation for reply in replies if reply.status == 200} == {1, 2}
    assert good.sha256 in {reply.sha256 for reply in replies if reply.status == 200}
