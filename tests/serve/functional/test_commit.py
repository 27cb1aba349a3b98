"""All workers move at the same instant, whatever happens to some of them, on real gunicorn with real kills."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from serving import Load, assert_answers, find_steps_back, wait_until
from trainer import ROW, mark

pytestmark = pytest.mark.needs_torch


@pytest.fixture
def gate(tmp_path):
    """A directory whose files hold, fail or kill the workers that prepare `affine:Gate`."""
    gate = tmp_path / "gate"
    gate.mkdir()
    return gate


@pytest.fixture
def start_gated(start_server, gate, trainer):
    """Start a server with one committed generation and two workers that the gate can hold."""

    def start(**settings):
        trainer.publish(1)
        server = start_server(model="affine:Gate", model_args=json.dumps({"directory": str(gate)}), **settings)
        server.wait_live(1)
        return server

    return start


def generations(server, count=12):
    """Ask on new connections, so that both workers answer."""
    return {server.client().predict([ROW]).generation for _ in range(count)}


@pytest.mark.parametrize("swaps", [100, pytest.param(1000, marks=pytest.mark.nightly)])
def test_swaps_at_full_load(start_server, trainer, swaps):
    trainer.publish(0)
    server = start_server(keep=2)
    server.wait_live(1)
    with Load(server, ROW) as load:
        for seed in range(1, swaps + 1):
            trainer.publish(seed, name=f"model_{seed % 5}.safetensors")
            load.wait_for_generation(seed + 1)
        load.wait_for_more(50)
    assert_answers(load, trainer)
    assert {reply.generation for reply in load.all()} >= set(range(2, swaps + 2))
    assert server.events("fault") == server.events("refused") == server.events("not_restored") == []


def test_without_the_agreement_answers_do_go_back(start_server, trainer):
    """The check above is sharp: workers that swap each for itself are caught by it."""
    trainer.publish(0)
    server = start_server(commit="worker", watch="poll", poll_s=0.5)
    server.wait_live(1)
    with Load(server, ROW) as load:
        # One worker may take all connections for a while, and then nobody sees that the other is behind.
        for seed in range(1, 30):
            trainer.publish(seed)
            server.wait_live(seed + 1)
            load.wait_for_more(20)
            if seed >= 4 and find_steps_back(load.all()):
                break
    assert load.failures == []
    assert find_steps_back(load.all()) != []


def test_one_that_fails_and_nobody_moves(start_gated, trainer, gate):
    server = start_gated()
    one, other = server.workers()
    (gate / f"fail-{one}").touch()
    with Load(server, ROW) as load:
        bad = trainer.publish(2)
        (refused,) = server.wait_for_events("refused", 1)
        assert (refused["code"], refused["sha256"]) == ("model", bad.sha256)
        load.wait_for_more(40)
        assert {reply.generation for reply in load.all()} == {1}
        (gate / f"fail-{one}").unlink()
        trainer.publish(3)
        server.wait_live(2)
        load.wait_for_more(40)
    assert_answers(load, trainer)
    assert len(server.events("refused")) == 1
    assert {line["worker"] for line in server.events("swapped") if line["generation"] == 2} == {one, other}


def test_the_deadline_and_nobody_moves(start_gated, trainer, gate):
    server = start_gated(commit_timeout_s=3)
    held = server.workers()[0]
    (gate / f"hold-{held}").touch()
    late = trainer.publish(2)
    (refused,) = server.wait_for_events("refused", 1)
    assert (refused["code"], refused["will_retry"], refused["sha256"]) == ("deadline", True, late.sha256)
    assert str(held) in refused["reason"]
    assert generations(server) == {1}
    (gate / f"hold-{held}").unlink()
    last = trainer.publish(3)
    wait_until(lambda: server.client().predict([ROW]).sha256 == last.sha256, "the next good one", lambda: server.text)


def test_workers_killed_in_each_phase(start_gated, trainer, gate, tmp_path):
    """While copying, loading, when prepared, just after the commit: the others move, and a new one follows."""
    # Two deaths on probation would take a generation back, which is another test's.
    server = start_gated(probation_s=0)

    def kill(pid):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in server.workers() and len(server.workers()) == 2, "a new worker")

    def wait_for_new(generation):
        wait_until(lambda: generations(server, 4) == {generation}, f"generation {generation}", lambda: server.text)
        wait_until(lambda: _rows(server, tmp_path) == 2, "both workers on the roster", lambda: server.text)

    with Load(server, ROW, threads=4) as load:
        one, other = server.workers()
        (gate / f"hold-{one}").touch()
        trainer.publish(2)
        server.wait_for_events("prepared", 1, worker=other, generation=2)
        assert generations(server) == {1}
        kill(one)  # while it loads
        wait_for_new(2)

        one, other = server.workers()
        (gate / f"hold-{one}").touch()
        trainer.publish(3)
        server.wait_for_events("prepared", 1, worker=other, generation=3)
        kill(other)  # when it is prepared
        (gate / f"hold-{one}").unlink()
        wait_for_new(3)

        trainer.publish(4)
        kill(server.wait_for_events("swapped", 1, generation=4)[0]["worker"])  # just after the commit
        wait_for_new(4)

        big = trainer.train(5)
        bytes_5 = big.read_bytes()
        with (tmp_path / "store" / "lock").open("rb") as held:
            import fcntl

            fcntl.flock(held, fcntl.LOCK_EX)  # both workers wait for the store; one of them will be the copier
            path = trainer.directory / "model_5.safetensors"
            path.write_bytes(bytes_5)
            mark(path)
            time.sleep(0.5)
            kill(server.workers()[0])
        wait_for_new(5)
    assert_answers(load, trainer, failures=4 * load.threads)
    assert server.events("refused") == []


def _rows(server, tmp_path):
    from serve.operations.operations import Operations

    return len(Operations(tmp_path / "store").status().workers)


def test_a_checkpoint_that_kills_its_workers_is_quarantined(start_gated, trainer, gate):
    server = start_gated()
    (gate / "crash").touch()
    trainer.publish(2)
    (refused,) = server.wait_for_events("refused", 1)
    assert refused["code"] == "crash"
    (gate / "crash").unlink()
    trainer.publish(3)
    wait_until(lambda: server.events("swapped")[-1]["generation"] == 2, "the next one", lambda: server.text)


def test_signals_of_gunicorn(start_server, trainer):
    """SIGHUP, TTIN and TTOU under load: no request fails, and whoever comes late has the committed generation."""
    trainer.publish(1)
    server = start_server()
    server.wait_live(1)
    first = set(server.workers())
    with Load(server, ROW, threads=4) as load:
        server.process.send_signal(signal.SIGTTIN)
        wait_until(lambda: len(server.workers()) == 3, "a third worker")
        trainer.publish(2)
        load.wait_for_generation(2)
        server.wait_live(2, workers=3)
        server.process.send_signal(signal.SIGTTOU)
        wait_until(lambda: len(server.workers()) == 2, "two workers")
        trainer.publish(3)
        load.wait_for_generation(3)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not first & set(server.workers()) and len(server.workers()) == 2, "new workers")
        trainer.publish(4)
        load.wait_for_generation(4)
        load.wait_for_more(40)
    # gthread closes idle connections of a worker that ends, so a request that is just then sent may be lost.
    assert_answers(load, trainer, failures=2 * load.threads)
    assert server.events("refused") == []


def test_sigterm_while_loading_and_the_start_after_it(start_gated, start_server, trainer, gate):
    server = start_gated()
    (gate / "hold-all").touch()
    new = trainer.publish(2)
    wait_until(lambda: all((gate / f"entered-{pid}").exists() for pid in server.workers()), "both loading")
    started = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert time.monotonic() - started < 20
    assert "SIGABRT" not in server.text
    (gate / "hold-all").unlink()
    again = start_server(model="affine:Gate", model_args=json.dumps({"directory": str(gate)}))
    again.wait_live(2)
    assert again.client().predict([ROW]).sha256 == new.sha256
    assert again.events("refused") == []


def test_a_clock_that_was_set_back(start_server, trainer):
    """A stated generation outranks the clock; without one the newest marker wins."""
    first = trainer.publish(1)
    server = start_server()
    server.wait_live(1)
    path = trainer.directory / "back.safetensors"
    path.write_bytes(trainer.train(2).read_bytes())
    os.utime(path, (1000, 1000))
    stated = {"sha256": trainer.sha256(2), "generation": 7}
    marker = path.with_name(".tmp")
    marker.write_text(json.dumps(stated))
    os.utime(marker, (1000, 1000))
    marker.rename(path.with_name(path.name + ".done"))
    server.wait_live(2)
    assert server.client().predict([ROW]).sha256 == stated["sha256"] != first.sha256
