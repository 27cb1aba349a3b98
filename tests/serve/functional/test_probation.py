"""Checkpoints that pass every gate and answer badly take themselves back, on real gunicorn under real requests."""

from __future__ import annotations

import numpy
import pytest
from affine import Turning
from serving import Load
from trainer import ROW

from serve.publishing.publish import publish

pytestmark = pytest.mark.needs_torch

GOOD = [[3.0, -2.0, 5.0, 7.0], [3.0, 1.0, 0.0, 2.0]]


def publish_kind(trainer, kind, seed=7, second_bias=0.0):
    """Publish weights whose first bias says how the model turns out."""
    draw = numpy.random.default_rng(seed)
    state = {
        "layer.weight": draw.integers(-9, 9, (2, 4)).astype("float32"),
        "layer.bias": numpy.array([kind, second_bias], "float32"),
    }
    return publish(trainer.write("m.safetensors", state), trainer.directory, f"model_{kind}_{seed}.safetensors")


@pytest.fixture
def start(start_server, trainer):
    """Start a server of `affine:Turning` whose first generation is live and has answered."""

    def start(second_bias=0.0, **settings):
        good = publish_kind(trainer, 0, second_bias=second_bias)
        server = start_server(model="affine:Turning", **settings)
        server.wait_live(1)
        return server, good

    return start


class Requests(Load):
    """Like `Load`, with rows that differ, so that a model of one class is seen."""

    def _send(self, index):
        client, count = self.server.client(), 0
        while not self._stopping.is_set():
            count += 1
            row = [3.0, float(index), float(count % 7), 2.0]
            self.replies[index].append(client.predict([row]))
        client.close()


KINDS = {
    "finite": Turning.NAN,
    "errors": Turning.RAISING,
    "slower": Turning.SLOW,
    "unhealthy": Turning.ONE_CLASS,
    "range": Turning.OUTSIDE,
}


@pytest.mark.both_workers
@pytest.mark.parametrize("found", KINDS)
def test_a_bad_generation_takes_itself_back(start, trainer, found):
    server, good = start(5.0 if found == "slower" else 0.0)
    with Requests(server, ROW, threads=4) as load:
        load.wait_for_more(300)
        bad = publish_kind(trainer, KINDS[found], second_bias=5.0 if found == "slower" else 0.0)
        (returned,) = server.wait_for_events("returned", 1)
        load.wait_for_more(100)
    print(found, returned["seconds"], returned["answers"], returned["bad"])
    assert (returned["signal"], returned["generation"], returned["sha256"]) == (found, 3, good.sha256)
    assert returned["previous"]["sha256"] == bad.sha256
    (refused,) = server.wait_for_events("refused", 1)
    assert (refused["code"], refused["sha256"]) == ("probation", bad.sha256)
    replies = load.all()
    last = replies[-50:]
    if last[-1].generation != 3:
        print(
            [(r.generation, r.status, r.headers.get("x-model-retried"), round(r.received_s, 3)) for r in replies[-150:]]
        )
        print(server.text[-3000:])
    assert {(reply.status, reply.generation, reply.sha256) for reply in last} == {(200, 3, good.sha256)}
    spoiled = [reply for reply in replies if reply.status != 200 or b"NaN" in reply.body]
    if found in ("finite", "slower", "unhealthy", "range"):
        assert spoiled == []
    else:
        assert 0 < len(spoiled) < 200
    if found == "finite":
        assert {reply.headers["x-model-retried"] for reply in replies if "x-model-retried" in reply.headers} == {
            "generation=2; finite"
        }
    assert load.failures == []
