"""Operators act on a server that serves, by the command line and with two workers under load."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from serving import ROOT, Load, assert_answers, wait_until
from trainer import ROW

pytestmark = pytest.mark.needs_torch


@pytest.fixture
def serve(tmp_path):
    """Run `python -m serve` on the server's store."""

    def run(*arguments, code=0):
        command = [sys.executable, "-m", "serve", arguments[0], "--store", str(tmp_path / "store"), *arguments[1:]]
        done = subprocess.run(command, cwd=ROOT, stdout=-1, stderr=-1, text=True)
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout

    return run


def watch_on_terminal(store, lines, columns):
    """The live view's fourth look on a terminal of its own: whether the live generation answers at some rate."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    argv = [sys.executable, "-m", "serve", "status", "--store", str(store), "--watch", "0.3"]
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(argv, cwd=ROOT, env=env, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    try:
        written, until_s = b"", time.monotonic() + 60
        while written.count(b"\x1b[H") < 5:
            assert select.select([master], [], [], max(0.0, until_s - time.monotonic()))[0], written
            written += os.read(master, 4096)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        os.close(master)
    shown = [line.partition("\x1b")[0] for line in written.split(b"\x1b[H")[4].decode().splitlines()]
    assert len(shown) <= lines
    assert max(map(len, shown)) < columns
    rows = {row.split()[0]: re.split(r" {2,}", row) for row in shown[1:6] if row}
    head = re.split(r" {2,}", shown[0])
    rate = rows["5"][head.index("PER SECOND")].replace(",", "") if len(rows) == 5 else "-"
    return "workers     2" in shown and rate != "-" and float(rate) > 0


def test_rollback_pin_and_unpin(start_server, trainer, serve, tmp_path):
    events = tmp_path / "events"
    first = trainer.publish(1, version="v1")
    server = start_server(event_hook=f"tee -a {events}")
    server.wait_live(1)
    with Load(server, ROW) as load:
        trainer.publish(2, version="v2")
        load.wait_for_generation(2)
        assert "version v1 is live as generation 3" in serve("rollback")
        load.wait_for_generation(3)
        assert "pinned to version v1" in serve("pin", "--reason", "v2 is bad")
        last = trainer.publish(3, version="v3")
        wait_until(lambda: "pinned" in server.get("/model").json["newest"], "the pin in the verdict")
        load.wait_for_more(40)
        assert {reply.generation for reply in load.all()} == {1, 2, 3}
        status = json.loads(serve("status", "--json"))
        assert [(worker["live"], worker["state"]) for worker in status["workers"]] == 2 * [(3, "serving")]
        assert {worker["pid"] for worker in status["workers"]} == set(server.workers())
        serve("unpin")
        load.wait_for_generation(4)
        assert "generation 5" in serve("rollback", "--to", "v2")
        load.wait_for_generation(5)
        wait_until(lambda: watch_on_terminal(tmp_path / "store", 24, 80), "a rate on a terminal")
    assert_answers(load, trainer)
    by_generation = {reply.generation: reply.sha256 for reply in load.all()}
    assert (by_generation[3], by_generation[4]) == (first.sha256, last.sha256)
    history = json.loads(serve("history", "--json"))
    assert [(line["version"], line["cause"]) for line in history] == [
        ("v2", "rollback"),
        ("v3", "checkpoint"),
        ("v1", "rollback"),
        ("v2", "checkpoint"),
        ("v1", "checkpoint"),
    ]

    def delivered():
        lines = [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []
        return {line["generation"] for line in lines if line["event"] == "swapped"} >= {2, 3, 4, 5}

    wait_until(delivered, "the hook to get the events")


def test_a_hook_that_hangs_delays_no_swap(start_server, trainer):
    trainer.publish(1)
    server = start_server(event_hook="sleep 1000")
    server.wait_live(1)
    for seed in (2, 3, 4):
        trainer.publish(seed)
        server.wait_live(seed)
    slowest_s = max(line["since_marker_s"] for line in server.events("swapped") if line["generation"] > 1)
    assert slowest_s < 10
    server.stop()
    assert server.process.returncode == 0


def test_a_store_that_was_spoilt_is_fetched_again(start_server, trainer, tmp_path):
    good = trainer.publish(1)
    first = start_server()
    first.wait_live(1)
    first.stop()
    entry = tmp_path / "store" / "sha256" / good.sha256
    entry.chmod(0o644)
    entry.write_bytes(b"spoilt")
    again = start_server()
    again.wait_live(1)
    (damaged,) = again.events("store_damaged")
    assert damaged["sha256"] == good.sha256
    reply = again.client().predict([ROW])
    assert (reply.sha256, reply.generation) == (good.sha256, 1)
    assert reply.json["outputs"] == [trainer.expected(good.sha256)]


def test_what_was_refused_is_known_after_a_restart(start_server, trainer, serve):
    trainer.publish(1)
    server = start_server()
    server.wait_live(1)
    bad = trainer.directory / "bad.safetensors"
    bad.write_bytes(b"\x10\0\0\0\0\0\0\0{damaged header..")
    bad.with_name(bad.name + ".done").touch()
    server.wait_for_events("refused", 1)
    server.stop()
    assert "bad.safetensors" in serve("status")
    again = start_server()
    again.wait_live(1)
    trainer.publish(2)
    again.wait_live(2)
    assert again.events("refused") == []


def test_weights_in_memory_are_compared_while_they_serve(start_server, trainer, serve):
    published = trainer.publish(1)
    server = start_server(model="affine:Corruptible", stateful="allow")
    server.wait_live(1)
    with Load(server, ROW) as load:
        load.wait_for_more(20)
        found = json.loads(serve("verify", "--live", "--json"))
        load.wait_for_more(20)
    assert_answers(load, trainer)
    assert [each["worker"] for each in found] == sorted(server.workers())
    assert {(each["generation"], each["tensors"], tuple(each["differing"])) for each in found} == {(1, 2, ())}
    reply = server.client().predict([[666, 0, 0, 0]])  # one of the two workers writes into its weights
    assert (reply.status, reply.sha256) == (200, published.sha256)
    found = json.loads(serve("verify", "--live", "--json", code=1))
    assert sorted(each["differing"] for each in found) == [[], ["layer.bias"]]
    assert "layer.bias differs" in serve("verify", "--live", code=1)
    assert server.wait_for_events("weights_changed", 1, tensors=["layer.bias"], generation=1)


def test_weights_that_change_under_load_are_named(start_server, trainer, serve):
    trainer.publish(1)
    server = start_server(model="affine:Corruptible", workers=1, poll_s=0.1, stateful="allow")
    server.wait_live(1, workers=1)
    assert "changed_tensors" not in server.get("/model").json
    server.client().predict([[666, 0, 0, 0]])
    assert server.wait_for_events("weights_changed", 1, tensors=["layer.bias"], generation=1)
    assert server.get("/model").json["changed_tensors"] == ["layer.bias"]
    metrics = server.get("/metrics").body
    assert b'envserve_faults_total{event="weights_changed",label="stable",model="affine"} 1.0' in metrics
    assert b'envserve_changed_tensor{label="stable",model="affine",tensor="layer.bias"} 1.0' in metrics
    assert "changed     layer.bias" in serve("status")
    assert server.get("/status.json").json["models"][0]["changed_tensors"] == ["layer.bias"]
    assert len(server.events("weights_changed")) == 1
    assert server.client().predict([ROW]).status == 200


@pytest.mark.parametrize("commit", ["host", "worker"])
def test_a_generation_whose_weights_change_is_ended(start_server, trainer, serve, commit):
    first, second = trainer.publish(1), None
    server = start_server(model="affine:Corruptible", poll_s=0.1, commit=commit)
    server.wait_live(1)
    second = trainer.publish(2)
    server.wait_live(2)

    def all_answer(*expected):
        replies = [server.client().predict([ROW]) for _ in range(12)]
        return {(reply.status, reply.headers.get("x-model-sha256")) for reply in replies} == set(expected)

    assert server.client().predict([[666, 0, 0, 0]]).sha256 == second.sha256  # one of the two workers writes
    wait_until(lambda: all_answer((200, first.sha256)), "the way back", lambda: server.text)
    (refused,) = server.events("refused")
    assert (refused["code"], refused["sha256"], refused["will_retry"]) == ("stateful", second.sha256, False)
    assert "layer.bias" in refused["reason"]
    assert "stateful" in serve("status")
    server.client().predict([[666, 0, 0, 0]])  # nothing is left to go back to
    wait_until(lambda: all_answer((503, None)), "the end", lambda: server.text)

    def is_named():  # twelve requests may all have met the one worker that has ended it already
        return "layer.bias: expected weights that stay" in server.get("/readyz").json.get("reason", "")

    wait_until(is_named, "the reason", lambda: server.text)
    assert server.get("/livez").status == 200
    third = trainer.publish(3)
    wait_until(lambda: all_answer((200, third.sha256)), "the next checkpoint", lambda: server.text)
    assert len(server.events("refused")) == 2
    server.stop()
    again = start_server(model="affine:Corruptible", commit=commit)  # a start is a request to look again
    again.wait_live(4)


def test_workers_that_swap_alone_can_be_asked_too(start_server, trainer, serve):
    trainer.publish(1)
    server = start_server(commit="worker")
    server.wait_live(1)
    found = json.loads(serve("verify", "--live", "--json"))
    assert [each["worker"] for each in found] == sorted(server.workers())
    assert {(each["generation"], each["tensors"], tuple(each["differing"])) for each in found} == {(1, 2, ())}
    assert [row["live"] for row in json.loads(serve("status", "--json"))["workers"]] == [1, 1]
