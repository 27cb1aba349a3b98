"""Swaps, refusals and faults of processes, on real gunicorn with two workers and real torch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import numpy
import pytest
from serving import Load, assert_answers, wait_until
from trainer import ROW, mark, sha256_of

from serve.publishing.publish import publish

pytestmark = pytest.mark.needs_torch


@pytest.mark.both_workers
def test_a_request_keeps_its_generation_to_its_end(start_server, trainer):
    first = trainer.publish(1)
    server = start_server(model="affine:Slow", probation_s=0)
    server.wait_live(1)
    row = [1.5, 0.0, 0.0, 0.0]
    with Load(server, row, threads=4) as load:
        time.sleep(0.3)
        trainer.publish(2)
        server.wait_live(2)
        assert len(server.events("retired")) < 2  # a worker without a request in flight has nothing to wait for
        load.wait_for_more(8)
    assert_answers(load, trainer)
    assert {replies[0].sha256 for replies in load.replies} == {first.sha256}
    assert len(server.wait_for_events("retired", 2, generation=1)) == 2


def truncate(trainer, path):
    os.truncate(path, path.stat().st_size - 9)


def flip_header(trainer, path):
    content = bytearray(path.read_bytes())
    content[20] ^= 0xFF
    path.write_bytes(content)


def empty(trainer, path):
    path.write_bytes(b"")


def write_text(trainer, path):
    path.write_text("<html>not found</html>")


def write_state(**state):
    def spoil(trainer, path):
        arrays = {"layer.weight": numpy.zeros((2, 4), "float32"), "layer.bias": numpy.zeros(2, "float32")}
        arrays.update({name.replace("_", "."): array for name, array in state.items()})
        path.write_bytes(trainer.write("bad.safetensors", arrays).read_bytes())

    return spoil


BAD_CHECKPOINTS = {
    "truncated": (truncate, "damaged"),
    "damaged header": (flip_header, "damaged"),
    "empty": (empty, "format"),
    "not a checkpoint": (write_text, "format"),
    "NaN weights": (write_state(layer_bias=numpy.array([0, numpy.nan], "float32")), "finite"),
    "infinite weights": (write_state(layer_bias=numpy.array([0, numpy.inf], "float32")), "finite"),
    "another shape": (write_state(layer_weight=numpy.zeros((3, 4), "float32")), "architecture"),
    "another dtype": (write_state(layer_weight=numpy.zeros((2, 4), "float64")), "architecture"),
    "another tensor": (write_state(other_bias=numpy.zeros(2, "float32")), "architecture"),
}


def test_bad_checkpoints_leave_the_old_model_serving(start_server, trainer):
    good = trainer.publish(1)
    server = start_server()
    server.wait_live(1)
    client = server.client()
    for number, (what, (spoil, code)) in enumerate(BAD_CHECKPOINTS.items()):
        path = trainer.directory / f"bad_{number}.safetensors"
        path.write_bytes(trainer.train(99).read_bytes())
        spoil(trainer, path)
        mark(path)
        refused = server.wait_for_events("refused", 1, checkpoint=str(path))
        assert {line["code"] for line in refused} == {code}, (what, refused)
        assert all(line["reason"] and not line["will_retry"] for line in refused)
        assert client.predict([ROW]).sha256 == good.sha256
    time.sleep(1)  # five polls: a refusal is said once on the host
    assert len(server.events("refused")) == len(BAD_CHECKPOINTS)
    better = trainer.publish(2)
    server.wait_live(2)
    assert client.predict([ROW]).json["outputs"] == [trainer.expected(better.sha256)]


def test_a_checkpoint_that_is_not_what_its_marker_states_is_refused(start_server, trainer):
    good = trainer.publish(1)
    server = start_server()
    server.wait_live(1)
    other = trainer.publish(2, name="two.safetensors")
    server.wait_live(2)
    marker = trainer.directory / "two.safetensors.done"
    for name, content, code in (
        ("hash", marker.read_bytes().replace(other.sha256[:8].encode(), b"0" * 8), "hash"),
        ("size", marker.read_bytes().replace(f'"size": {other.size}'.encode(), b'"size": 7'), "size"),
        ("text", b"done!", "marker"),
        ("form", b'{"sha256": 3, "size": "big"}', "marker"),
    ):
        path = trainer.directory / f"{name}.safetensors"
        path.write_bytes(trainer.train(3).read_bytes())
        mark(path, content)
        refused = server.wait_for_events("refused", 1, checkpoint=str(path))
        assert {line["code"] for line in refused} == {code}, refused
    assert good.sha256 != server.client().predict([ROW]).sha256 == other.sha256


def test_one_checkpoint_overwritten_in_place(start_server, trainer):
    """What a shell script does: write over the path that is served, then touch the marker."""
    path = trainer.directory / "model_latest.safetensors"
    path.write_bytes(trainer.train(1).read_bytes())
    mark(path)
    server = start_server(checkpoints=path)
    server.wait_live(1)
    first = sha256_of(path)
    with Load(server, ROW) as load:
        load.wait_for_more(20)
        new = trainer.train(2).read_bytes()
        with path.open("wb") as writer:  # half of it, for some time, under the old marker
            writer.write(new[:100])
            writer.flush()
            time.sleep(1)
            assert {reply.sha256 for replies in load.replies for reply in replies} == {first}
            writer.write(new[100:])
        time.sleep(1)
        assert {reply.sha256 for replies in load.replies for reply in replies} == {first}
        mark(path)
        server.wait_live(2)
        load.wait_for_more(20)
        os.truncate(path, 0)  # a mapped file would now kill the workers
        load.wait_for_more(20)
        path.unlink()
        load.wait_for_more(20)
    assert_answers(load, trainer)
    assert {reply.generation for replies in load.replies for reply in replies} == {1, 2}
    assert server.events("refused") == []


def test_touching_a_marker_again_makes_no_new_generation(start_server, trainer):
    path = trainer.directory / "model.safetensors"
    path.write_bytes(trainer.train(1).read_bytes())
    mark(path)
    server = start_server()
    server.wait_live(1)
    mark(path)
    time.sleep(1)
    assert server.client().predict([ROW]).generation == 1
    assert len(server.events("swapped")) + len(server.events("restored")) == 2


def test_a_new_worker_becomes_live_before_it_takes_requests(start_server, trainer):
    trainer.publish(1)
    server = start_server(model="affine:SlowToBuild")
    server.wait_live(1)
    first = server.workers()
    with Load(server, ROW) as load:
        load.wait_for_more(20)
        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: [line for line in server.events("restored") if line["worker"] not in first], "a new worker")
        load.wait_for_more(100)
    # Requests that the killed worker held are lost with it; all others are answered, none with 503.
    assert len(load.failures) <= load.threads
    assert {reply.status for replies in load.replies for reply in replies} == {200}


def test_a_restarted_server_serves_what_was_committed(start_server, trainer):
    good = trainer.publish(1)
    first = start_server()
    first.wait_live(1)
    first.stop()
    (trainer.directory / "model_1.safetensors").unlink()
    again = start_server()
    again.wait_live(1)
    reply = again.client().predict([ROW])
    assert (reply.sha256, reply.generation) == (good.sha256, 1)
    trainer.publish(2)
    again.wait_live(2)


def test_the_newest_good_checkpoint_is_found_past_bad_ones(start_server, trainer):
    good = trainer.publish(1)
    bad = trainer.directory / "zz.safetensors"
    write_text(trainer, bad)
    mark(bad)
    server = start_server()
    server.wait_live(1)
    assert server.client().predict([ROW]).sha256 == good.sha256


def test_the_directory_may_come_later_and_be_replaced(start_server, trainer, tmp_path):
    trainer.directory.rmdir()
    server = start_server()
    assert server.get("/readyz").status == 503
    trainer.publish(1)
    server.wait_live(1)
    trainer.directory.rename(tmp_path / "old")
    trainer.publish(2)
    server.wait_live(2)


def test_the_master_never_has_torch(start_server, trainer):
    trainer.publish(1)
    server = start_server(is_fresh=True)
    server.wait_live(1)
    assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
    assert all("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in server.workers())


def test_a_model_class_that_cannot_be_used_is_said_to_be_so(start_server, trainer):
    trainer.publish(1)
    server = start_server(model="affine:Missing")
    stopped = server.wait_for_events("stopped", 2)
    assert "affine:Missing" in stopped[0]["reason"]
    assert server.get("/livez").status == 503
    assert "affine:Missing" in server.get("/readyz").json["reason"]


@pytest.mark.both_workers
def test_sigterm_ends_the_server_quickly(start_server, trainer):
    trainer.publish(1)
    server = start_server()
    server.wait_live(1)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0  # far less than what gunicorn waits for requests


def test_a_large_copy_gives_way_to_requests(start_server, trainer):
    rows = 16_000_000
    tables = [trainer.write(f"{n}", {"table.weight": numpy.full((rows, 1), n, "float32")}) for n in (1, 2)]
    publish(tables[0], trainer.directory, "1.safetensors", None)
    server = start_server(model="affine:Whole", model_args=json.dumps({"rows": rows}))
    server.wait_live(1)
    before = niceness(server)
    publish(tables[1], trainer.directory, "2.safetensors", None)
    seen = set()
    while len(server.events("prepared")) < 4:
        seen |= niceness(server)
    server.wait_live(2)
    assert seen - before == {min(before) + 10}
    wait_until(lambda: niceness(server) == before, "the thread that copied to end")


def niceness(server):
    """The niceness of each thread of the workers."""
    found = set()
    for worker in server.workers():
        for stat in Path(f"/proc/{worker}/task").glob("*/stat"):
            with contextlib.suppress(OSError):
                found.add(int(stat.read_text().rpartition(")")[2].split()[16]))
    return found
