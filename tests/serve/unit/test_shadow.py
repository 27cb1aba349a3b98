from __future__ import annotations

import threading
import time

import pytest
from predictors import Times, go_live, make_server

from serve.inference.rollout import Asked, Counts

TOML = """
[models.a]
model = "m:M"
checkpoints = "ck"
[models.a.shadow]
checkpoints = "dark"
compare_share = 1.0
"""


@pytest.fixture
def server(tmp_path):
    server = make_server(tmp_path, TOML)
    yield server
    server.shadow.stop()


def offer(server, outputs, times=1):
    shadow = server.find("a").labels["shadow"]
    for _ in range(times):
        server.shadow.offer(Asked(shadow, lambda predictor: predictor.prepare([1, 2]), outputs))


def assert_counts(server, **counts):
    until = time.monotonic() + 30
    while time.monotonic() < until and server.shadow.counts["a"] != Counts(**counts):
        time.sleep(0.01)
    assert server.shadow.counts["a"] == Counts(**counts)


class Held(Times):
    """Answers when it may go on."""

    def __init__(self, goes_on, *arguments):
        super().__init__(*arguments)
        self.goes_on = goes_on

    def run(self, taken):
        self.goes_on.wait(60)
        return super().run(taken)


def test_answers_are_compared_and_counted(server):
    go_live(server.find("a").labels["shadow"], Times(3))
    offer(server, [3, 6.0000001])
    assert_counts(server, agreed=1)
    offer(server, [2, 4])
    assert_counts(server, agreed=1, differed=1)


def test_a_shadow_that_is_not_live_is_skipped(server):
    offer(server, [2, 4])
    assert_counts(server, skipped=1)


def test_a_shadow_that_fails_harms_nobody(server, capfd):
    class Broken(Times):
        def run(self, taken):
            raise RuntimeError("broken")

    go_live(server.find("a").labels["shadow"], Broken())
    offer(server, [2, 4], times=3)
    assert_counts(server, failed=3)
    assert capfd.readouterr().err.count("shadow_failed") == 1


def test_a_shadow_that_is_slow_makes_nobody_wait(server):
    goes_on = threading.Event()
    go_live(server.find("a").labels["shadow"], Held(goes_on))
    offer(server, [2, 4])
    offer(server, [2, 4], times=200)
    assert server.shadow.counts["a"].skipped >= 100
    goes_on.set()
    skipped = server.shadow.counts["a"].skipped
    assert_counts(server, agreed=201 - skipped, skipped=skipped)


def test_an_answer_whose_generation_has_gone_meanwhile_is_not_compared(server):
    goes_on = threading.Event()
    stable, shadow = server.find("a").stable, server.find("a").labels["shadow"]
    go_live(stable)
    go_live(shadow, Held(goes_on, 3))
    for outputs in ([3, 6], [2, 4]):
        prepare = lambda predictor: predictor.prepare([1, 2])  # noqa: E731
        server.shadow.offer(Asked(shadow, prepare, outputs, stable, answered=1))
    while server.shadow._waiting.qsize() != 1:
        time.sleep(0.001)
    go_live(stable, Times(3), generation=2)
    goes_on.set()
    assert_counts(server, skipped=1, agreed=1)


def test_comparisons_take_no_more_than_their_share_of_the_time(tmp_path):
    class Slow(Times):
        def run(self, taken):
            time.sleep(0.01)
            return super().run(taken)

    server = make_server(tmp_path, TOML.replace("= 1.0", "= 0.1"))
    shadow = server.find("a").labels["shadow"]
    go_live(shadow, Slow())
    began_s = time.monotonic()
    while time.monotonic() < began_s + 2:
        if server.shadow.has_room(shadow, 0):
            offer(server, [2, 4])
        time.sleep(0.001)
    counts = server.shadow.counts["a"]
    began_s = time.monotonic()
    server.shadow.stop()  # its thread is resting
    assert time.monotonic() - began_s < 1
    # A tenth of two seconds and the first stretch; without rests there were nearly two hundred.
    assert 2 < counts.agreed <= 26
    assert counts.skipped > 100
