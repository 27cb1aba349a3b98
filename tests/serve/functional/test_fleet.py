"""Several hosts that move as one: real etcd, real gunicorn, processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from affine import Turning
from browser import Browser, find_browser
from etcd import Cluster, LossyWatch
from object_storage import start_s3
from serving import ROOT, Load, Requests, Server, find_steps_back, wait_until
from trainer import ROW, mark

from serve.fleet.etcd import Etcd
from serve.fleet.messages import ALL, View
from serve.publishing.publish import publish

pytestmark = pytest.mark.needs_torch


class Hosts:
    """Hosts on one machine, each with a store and a name of its own."""

    def __init__(self, directory: Path, trainer, cluster: Cluster, worker: str) -> None:
        self._directory, self._trainer, self.cluster, self._worker = directory, trainer, cluster, worker
        self.servers: dict[str, Server] = {}

    def start(self, name: str, **settings: object) -> Server:
        place = self._directory / name
        place.mkdir(exist_ok=True)
        stated = {"commit": "fleet", "fleet": self.cluster.address, "fleet_host": name, "worker": self._worker}
        self.servers[name] = Server(place, self._trainer.directory, {**stated, **settings})
        return self.servers[name]

    def wait_ready(self, generation: int, *names: str) -> None:
        """Wait until every worker of some hosts, or all of them, answers with a generation."""
        for name in names or self.servers:
            server = self.servers[name]

            def is_ready(server=server, name=name) -> bool:
                beat = self.view().beat_of(name)
                return beat is not None and beat.live == generation and server.get("/readyz").status == 200

            wait_until(is_ready, f"{name} at {generation}", lambda server=server: server.text)

    def view(self) -> View:
        return View.parse(Etcd(tuple(self.cluster.clients), "tests/affine/stable/").read(*ALL))

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("SERVE_")}
        environ.update(PYTHONPATH=str(ROOT), SERVE_MODEL="affine:Affine", SERVE_NAME="affine", SERVE_COMMIT="fleet")
        environ.update(SERVE_CHECKPOINTS=str(self._trainer.directory), SERVE_FLEET=self.cluster.address)
        environ.update(SERVE_STORE=str(self._directory / "a" / "store"))
        return subprocess.run(
            [sys.executable, "-m", "serve", "fleet", *words], env=environ, capture_output=True, text=True, timeout=60
        )

    def history(self, name: str) -> list[str]:
        lines = (self._directory / name / "store" / "generations.jsonl").read_text().splitlines()
        return [json.loads(line)["sha256"] for line in lines]

    def kill(self, name: str) -> None:
        """End all processes of a host at once."""
        server = self.servers.pop(name)
        pids = [server.process.pid, *server.workers()]
        server.process.send_signal(signal.SIGSTOP)  # it would start others in their place
        for pid in reversed(pids):
            os.kill(pid, signal.SIGKILL)
        server.process.wait()

    def stop(self) -> None:
        for server in self.servers.values():
            server.stop()


@pytest.fixture
def cluster(tmp_path):
    found = Cluster(tmp_path)
    try:
        found.wait()
        yield found
    finally:
        found.stop()


WORKERS = [pytest.param("asgi"), pytest.param("gthread", marks=pytest.mark.nightly)]


@pytest.fixture(params=WORKERS)
def hosts(request, tmp_path, trainer, cluster):
    found = Hosts(tmp_path, trainer, cluster, request.param)
    yield found
    found.stop()


def judge(*loads: Load, failures: int = 0):
    """No answer is older than one that came before its request was sent, on whichever host."""
    replies = sorted((reply for load in loads for reply in load.all()), key=lambda reply: reply.received_s)
    assert sum(len(load.failures) for load in loads) <= failures
    assert [reply for reply in replies if reply.status != 200] == []
    assert find_steps_back(replies) == []
    return replies


def test_all_hosts_move_as_one_and_etcd_may_die(hosts, trainer):
    trainer.publish(1)
    first, second = hosts.start("a"), hosts.start("b")
    hosts.wait_ready(1)
    with Load(first, ROW, threads=2) as one, Load(second, ROW, threads=2) as other:
        for generation in (2, 3, 4):
            trainer.publish(generation)
            hosts.wait_ready(generation)
            first.wait_for_events("swapped", 2, generation=generation)  # and not "restored": they stood by
        bad = trainer.directory / "bad.safetensors"
        bad.write_text("<html>not found</html>")
        mark(bad)
        first.wait_for_events("refused", 1, checkpoint=str(bad))
        hosts.cluster.kill()
        one.wait_for_more(100)
        other.wait_for_more(100)
        trainer.publish(5)
        time.sleep(1.0)  # nobody moves: nobody can know that all are prepared
        assert {load.all()[-1].generation for load in (one, other)} == {4}
        hosts.cluster.restart()
        hosts.cluster.wait()
        hosts.wait_ready(5)
        one.wait_for_more(20)
        other.wait_for_more(20)
    replies = judge(one, other)
    for host in (first, second):
        host.wait_for_events("swapped", 2, generation=5)
    moved = [[*host.events("swapped"), *host.events("restored")] for host in (first, second)]  # it may come in later
    traces = [{line["trace_id"] for line in lines} for lines in moved]
    assert (len(traces[0]), traces[0]) == (5, traces[1])  # one for each generation, on both
    told = [*first.events("fleet"), *second.events("fleet")]
    assert {line["trace_id"] for line in told if line["state"] == "commit"} == traces[0]
    assert {reply.generation for reply in replies} == {1, 2, 3, 4, 5}
    assert hosts.history("a") == hosts.history("b")


def test_a_swap_waits_for_a_host_that_was_killed_until_somebody_says_that_it_is_dead(hosts, trainer):
    trainer.publish(1)
    first = hosts.start("a")
    hosts.start("b")
    hosts.wait_ready(1)
    hosts.kill("b")
    with Load(first, ROW, threads=2) as load:
        trainer.publish(2)
        time.sleep(4.0)  # two leases
        assert load.all()[-1].generation == 1
        assert json.loads(hosts.command("status").stdout)["hosts"]["b"]["phase"] == "out"
        assert "is out" in hosts.command("evict", "b").stdout
        hosts.wait_ready(2, "a")
        load.wait_for_more(20)
        hosts.start("b")  # comes back to what was committed meanwhile, and never answers with what it had
        hosts.wait_ready(2)
        assert {hosts.servers["b"].client().predict([ROW]).generation for _ in range(20)} == {2}
        trainer.publish(3)
        hosts.wait_ready(3)
    judge(load)


def test_with_refuse_swaps_go_on_without_a_host_that_was_killed_or_hangs(hosts, trainer):
    trainer.publish(1)
    first, second = (hosts.start(name, fleet_cut_off="refuse") for name in "ab")
    third = hosts.start("c", fleet_cut_off="refuse", fleet_hold_s=0.5)
    hosts.wait_ready(1)
    hosts.kill("b")
    hanging = [third.process.pid, *third.workers()]
    for pid in hanging:
        os.kill(pid, signal.SIGSTOP)
    with Load(first, ROW, threads=2) as load:
        trainer.publish(2)
        load.wait_for_generation(2)
        for pid in hanging:
            os.kill(pid, signal.SIGCONT)
        statuses = set()
        until_s = time.monotonic() + 3
        while time.monotonic() < until_s:
            reply = third.client().predict([ROW])
            statuses.add((reply.status, reply.headers.get("x-model-generation")))
        assert (200, "1") not in statuses, statuses
        hosts.wait_ready(2, "a", "c")
    judge(load)
    assert second.process.returncode is not None


def test_a_host_that_leaves_is_not_waited_for_and_one_of_other_terms_is_not_taken_in(hosts, trainer, tmp_path):
    trainer.publish(1)
    first = hosts.start("a")
    hosts.start("b")
    hosts.wait_ready(1)
    hosts.servers.pop("b").stop()
    assert list(hosts.view().roster) == ["a"]
    trainer.publish(2)
    hosts.wait_ready(2, "a")
    other = hosts.start("c", model="affine:Affine", max_batch_size=1, warm_up_timeout_s=61)
    out = other.wait_for_events("fleet", 1, state="out")
    wait_until(
        lambda: any("settings" in line["reason"] for line in other.events("fleet")), "the reason", str(out).strip
    )
    assert other.get("/readyz").status == 503
    found = json.loads(first.get("/status.json").body)["models"][0]["fleet"]["hosts"]
    assert found == json.loads(hosts.command("status").stdout)["hosts"]
    assert (found["a"]["phase"], found["a"]["generation"], found["a"]["digest"]) == ("idle", 2, "sha256:0123")
    assert (found["c"]["phase"], "settings: expected" in found["c"]["reason"]) == ("out", True)
    assert 'envserve_fleet_out{label="stable",model="affine"} 1.0' in other.get("/metrics").body.decode()
    assert list(hosts.view().roster) == ["a"]
    assert "pinned" in hosts.command("pin", "--reason", "look").stdout
    trainer.publish(3)
    time.sleep(1.5)
    assert first.client().predict([ROW]).generation == 2
    assert "allowed" in hosts.command("unpin").stdout
    hosts.wait_ready(3, "a")


def test_what_is_bad_on_one_host_is_taken_back_on_all_of_them(hosts, trainer):
    good = trainer.publish_kind(0)
    first, second = (hosts.start(name, model="affine:Turning") for name in "ab")
    hosts.wait_ready(1)
    for server in (first, second):
        server.wait_live(1)  # a worker that comes in meanwhile has to load
    # What goes to the first is answered well, and by answers that differ: `healthy` rejects twenty that are the same.
    with Requests(first, [1.0], threads=2) as one, Requests(second, ROW, threads=2) as other:
        one.wait_for_more(20)
        bad = trainer.publish_kind(Turning.NAN)
        hosts.wait_ready(3)
        one.wait_for_more(20)
        other.wait_for_more(20)
    for server in (first, second):
        (returned,) = server.wait_for_events("returned", 1)
        assert (returned["generation"], returned["sha256"], returned["signal"]) == (3, good.sha256, "finite")
        assert (returned["previous"]["sha256"], returned["reason"][-8:]) == (bad.sha256, "(host b)")
        (refused,) = server.wait_for_events("refused", 1)
        assert (refused["code"], refused["sha256"]) == ("probation", bad.sha256)
        server.wait_for_events("swapped", 2, generation=3)
        assert [line for line in server.events("prepared") if line["generation"] == 3] == []  # nobody had to load it
        assert [line for line in server.events("restored") if line["generation"] == 3] == []
    assert {reply.sha256 for reply in one.all() if reply.generation == 2} == {bad.sha256}
    replies = [reply for load in (one, other) for reply in load.all() if "x-model-retried" not in reply.headers]
    assert [reply for reply in replies if reply.status != 200 or b"null" in reply.body] == []
    assert find_steps_back(sorted(replies, key=lambda reply: reply.received_s)) == []
    assert hosts.history("a") == hosts.history("b") == [good.sha256, bad.sha256, good.sha256]


def test_no_host_fetches_anything_twice(hosts, trainer, tmp_path):
    """Two workers each, a swap, a way back and a new start: each host gets the bytes of a checkpoint once."""
    log = tmp_path / "s3.log"
    with start_s3(log):
        place = "s3://bucket/ck"

        def publish_there(seed: int) -> str:
            return publish(trainer.train(seed), place, f"model_{seed}.safetensors").sha256

        def count_fetched(seed: int) -> int:
            return log.read_text().count(f"GET /bucket/ck/model_{seed}.safetensors HTTP")

        shas = [publish_there(1)]
        first, second = (hosts.start(name, checkpoints=place, workers=2) for name in "ab")
        hosts.wait_ready(1)
        shas.append(publish_there(2))
        hosts.wait_ready(2)
        shas.append(shas[0])
        environ = {**os.environ, "SERVE_STORE": str(tmp_path / "a" / "store"), "PYTHONPATH": str(ROOT)}
        environ.update(SERVE_MODEL="affine:Affine", SERVE_CHECKPOINTS=place)
        subprocess.run([sys.executable, "-m", "serve", "rollback"], env=environ, check=True, timeout=200)
        hosts.wait_ready(3)
        second.stop()
        hosts.start("b", checkpoints=place, workers=2)
        hosts.wait_ready(3)
        assert {server.client().predict([ROW]).sha256 for server in (first, hosts.servers["b"])} == {shas[0]}
        assert hosts.history("a") == hosts.history("b") == shas
        assert [count_fetched(seed) for seed in (1, 2)] == [2, 2], log.read_text()


def test_an_answer_is_not_older_than_its_client_knows(hosts, trainer):
    trainer.publish(1)
    first = hosts.start("a", fleet_hold_s=0.3)
    hosts.wait_ready(1)
    body = json.dumps({"inputs": [ROW]}).encode()

    def ask(least: str):
        return first.client().request("POST", "/predict", body, {"X-Model-At-Least": least})

    assert (ask("1").status, ask("x").status) == (200, 400)
    late = ask("2")
    assert (late.status, late.headers["retry-after"]) == (503, "1")
    assert late.received_s - late.sent_s > 0.3
    trainer.publish(2)
    wait_until(lambda: ask("2").status == 200, "generation 2")


@pytest.mark.nightly
@pytest.mark.skipif(find_browser() is None, reason="no Chromium; install one, or name it as CHROMIUM")
def test_the_page_shows_every_host(hosts, trainer, tmp_path):
    trainer.publish(1)
    first = hosts.start("a")
    hosts.start("b")
    hosts.wait_ready(1)
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(f"http://127.0.0.1:{first.port}/")
        browser.wait_for("document.querySelectorAll('[data-host]').length === 2")
        hosts.kill("b")
        browser.wait_for("document.querySelector('[data-host=b]').innerText.includes('its lease is over')")
        assert "has a lease" in browser.evaluate("document.querySelector('[data-host=a]').innerText")
    finally:
        browser.close()


@pytest.mark.nightly
def test_a_watch_that_loses_and_delays_what_it_tells_breaks_no_promise(hosts, trainer, request):
    trainer.publish(1)
    ways = [LossyWatch(hosts.cluster.clients[0], seed) for seed in (1, 2)]
    for name, way in zip("ab", ways):
        request.addfinalizer(way.stop)
        hosts.start(name, fleet=way.address)
    hosts.wait_ready(1)
    with Load(hosts.servers["a"], ROW, threads=2) as one, Load(hosts.servers["b"], ROW, threads=2) as other:
        for number in range(2, 60):  # nobody waits for a host that does not know of its last swap
            trainer.publish(number)
            time.sleep(0.3)
        last = trainer.sha256(59)
        wait_until(lambda: {load.all()[-1].sha256 for load in (one, other)} == {last}, "the last one")
    judge(one, other)
    mishaps = ways[0].mishaps + ways[1].mishaps
    assert min(mishaps[what] for what in ("lost", "late", "overtaken", "cut off")) > 0, mishaps
