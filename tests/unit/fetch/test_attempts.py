from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envtool.fetch.failover import Ask, Failure, Place, Timeouts, Wait, after, decide

PATIENCE = Timeouts(attempts=3, backoff_s=1.0, max_backoff_s=4.0, max_wait_s=60.0)
FRESH = Place("a")


def failed(url: str = "a", failures: int = 1, not_before_s: float = 0.0, **more: bool) -> Place:
    return Place(url, failures=failures, not_before_s=not_before_s, reason="HTTP 503", **more)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        pytest.param([], None, id="no place at all"),
        pytest.param([FRESH], Ask(0, False), id="the only place"),
        pytest.param([FRESH, Place("b")], Ask(0, True), id="the best first"),
        pytest.param([failed(), Place("b")], Ask(1, True), id="each once before any twice"),
        pytest.param([failed(not_before_s=110.0), Place("b")], Ask(1, True), id="no wait while another is left"),
        pytest.param([failed(), failed("b")], Ask(0, True), id="the second round in the same order"),
        pytest.param([failed(failures=2), failed("b")], Ask(1, True), id="the one that failed less often"),
        pytest.param([failed(not_before_s=110.0)], Wait(10.0), id="wait for the only one"),
        pytest.param(
            [failed(not_before_s=110.0), failed("b", not_before_s=105.0)], Wait(5.0), id="wait for the sooner"
        ),
        pytest.param([failed(is_out=True), failed("b", is_out=True)], None, id="none can have it"),
        pytest.param(
            [failed(is_out=True), failed("b", failures=2)], Ask(1, False), id="the last one has no alternative"
        ),
        pytest.param([failed(failures=3), failed("b", failures=3)], None, id="often enough"),
        pytest.param([Place("a", is_doubtful=True), Place("b")], Ask(1, True), id="a host that is down comes last"),
        pytest.param([Place("a", is_doubtful=True), failed("b")], Ask(0, True), id="but before any is asked twice"),
        pytest.param([failed(not_before_s=170.0)], None, id="asked to wait too long"),
        pytest.param([failed(not_before_s=170.0), Place("b")], Ask(1, False), id="too long, but another is there"),
    ],
)
def test_the_next_step(places: list[Place], expected: object) -> None:
    assert decide(places, 100.0, PATIENCE) == expected


@pytest.mark.parametrize(
    ("place", "failure", "jitter", "expected"),
    [
        pytest.param(FRESH, Failure("x", True), 1.0, Place("a", 1, 101.0, reason="x"), id="first failure"),
        pytest.param(FRESH, Failure("x", True), 0.5, Place("a", 1, 100.5, reason="x"), id="full jitter"),
        pytest.param(failed(), Failure("x", True), 1.0, Place("a", 2, 102.0, reason="x"), id="doubles"),
        pytest.param(failed(failures=9), Failure("x", True), 1.0, Place("a", 10, 104.0, reason="x"), id="to a limit"),
        pytest.param(FRESH, Failure("x", True, 30.0), 0.5, Place("a", 1, 130.5, reason="x"), id="Retry-After"),
        pytest.param(FRESH, Failure("x", False), 0.5, Place("a", is_out=True, reason="x"), id="of no use again"),
        pytest.param(
            failed(failures=2), Failure("x", True, brought_bytes=True), 1.0, Place("a", 1, 101.0, reason="x"),
            id="bytes came, so the count starts again",
        ),
    ],
)  # fmt: skip
def test_what_a_failure_teaches(place: Place, failure: Failure, jitter: float, expected: Place) -> None:
    assert after(place, failure, 100.0, jitter, PATIENCE) == expected


failures = st.builds(
    Failure,
    reason=st.just("x"),
    is_transient=st.booleans(),
    retry_after_s=st.one_of(st.none(), st.floats(0, 100)),
    brought_bytes=st.just(False),
)


@given(st.lists(st.lists(failures, max_size=8), min_size=1, max_size=5), st.floats(0, 1))
def test_any_sequence_of_failures_ends_and_asks_every_place_first(scripts: list[list[Failure]], jitter: float) -> None:
    """Play failures until a place has none left (it answers) or nothing is left to do."""
    places = tuple(Place(str(i)) for i in range(len(scripts)))
    asked: list[int] = []
    now_s, steps = 0.0, 0
    while True:
        steps += 1
        assert steps < 200, "it does not end"
        step = decide(places, now_s, PATIENCE)
        if step is None:
            break
        if isinstance(step, Wait):
            assert step.seconds > 0
            now_s += step.seconds
            continue
        place = places[step.position]
        assert place.not_before_s <= now_s, "asked before it may be"
        assert not place.is_out
        if asked.count(step.position):
            assert all(each.reason is not None or each.is_out for each in places), "asked twice before all were asked"
        script = scripts[step.position]
        if len(script) <= asked.count(step.position):
            return
        failed_place = after(place, script[asked.count(step.position)], now_s, jitter, PATIENCE)
        asked.append(step.position)
        places = (*places[: step.position], failed_place, *places[step.position + 1 :])
    for place, script in zip(places, scripts):
        assert place.reason is not None
        # Given up for a reason: it cannot have the file, failed often enough, or wants too long a wait.
        assert place.is_out or place.failures == PATIENCE.attempts or place.not_before_s - now_s > PATIENCE.max_wait_s
        assert script
