"""Which requests run together: the pure rules of the batcher."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.batching.batch_queue import INLINE_S, BatchQueue, LatencyEstimate, RunTime, Task, run_batch


def job(inputs=0, key="a", rows=1, run=list, since_s=0.0):
    return Task(key, rows, inputs, run, lambda result: None, since_s)


def batch_queue(*jobs, max_rows=8, delay_s=0.0):
    made = BatchQueue(max_rows, delay_s)
    for each in jobs:
        made.put(each)
    return made


def inputs(batch):
    return [each.inputs for each in batch]


def test_what_is_ready_runs_together_up_to_the_limit():
    full = batch_queue(*(job(n) for n in range(10)), max_rows=4)
    assert [inputs(full.take()) for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert full.wait_s(0.0) is None


def test_rows_count_and_not_requests():
    full = batch_queue(job(0, rows=3), job(1, rows=3), job(2, rows=2), job(3, rows=1), max_rows=5)
    assert inputs(full.take()) == [0, 2]
    assert inputs(full.take()) == [1, 3]


def test_a_request_of_more_rows_than_the_limit_runs_alone():
    assert inputs(batch_queue(job(0, rows=99), job(1)).take()) == [0]


def test_a_job_without_a_key_runs_alone_and_at_once():
    alone = batch_queue(job(0, key=None), job(1, key=None), delay_s=9.0)
    assert alone.wait_s(0.0) == 0.0
    assert inputs(alone.take()) == [0]


def test_a_batch_is_of_one_generation_and_keeps_the_order_of_each():
    mixed = batch_queue(*(job((key, n), key=key) for n in range(3) for key in "ab"))
    assert inputs(mixed.take()) == [("a", 0), ("a", 1), ("a", 2)]
    assert inputs(mixed.take()) == [("b", 0), ("b", 1), ("b", 2)]


def test_nothing_waits_unless_a_delay_is_set():
    assert batch_queue(job(since_s=5.0)).wait_s(5.0) == 0.0
    waiting = batch_queue(job(since_s=5.0), delay_s=0.25)
    assert waiting.wait_s(5.0) == pytest.approx(0.25)
    assert waiting.wait_s(5.2) == pytest.approx(0.05)
    assert waiting.wait_s(6.0) == 0.0


def test_a_full_batch_does_not_wait_for_the_delay():
    assert batch_queue(job(), job(), max_rows=2, delay_s=9.0).wait_s(0.0) == 0.0


def test_nothing_starts_while_a_batch_runs():
    busy = batch_queue(job())
    busy.is_running = True
    assert busy.wait_s(0.0) is None


def test_one_bad_request_spoils_no_other():
    def run(values):
        if 13 in values:
            raise ValueError("13")
        return [value * 2 for value in values]

    results = run_batch([job(n, run=run) for n in (1, 13, 2)])
    assert results[::2] == [2, 4]
    assert isinstance(results[1], ValueError)


def test_a_model_that_loses_rows_in_a_batch_is_asked_one_by_one():
    assert run_batch([job(n, run=lambda values: values[:1]) for n in (1, 2)]) == [1, 2]


def test_a_model_that_gives_nothing_is_an_error_of_the_request():
    (result,) = run_batch([job(run=lambda values: [])])
    assert "expected 1 results, found 0" in str(result)


SHORT, BUSY, LONG = (
    RunTime(INLINE_S / 3, INLINE_S / 2),
    RunTime(INLINE_S / 3, INLINE_S * 30),
    RunTime(INLINE_S * 2, INLINE_S * 3),
)


def test_only_what_was_short_runs_in_the_loop():
    pace = LatencyEstimate()
    assert not pace.is_short(1, 0.0)
    pace.note(1, LONG, False, 0.0)
    assert not pace.is_short(1, 0.0)
    pace.note(1, SHORT, False, 0.0)
    assert pace.is_short(1, 0.0)
    assert not pace.is_short(32, 0.0)  # never timed


def test_a_run_that_waits_for_others_now_and_then_is_still_short():
    pace = LatencyEstimate()
    for took in (BUSY, BUSY, SHORT, BUSY):
        pace.note(1, took, False, 0.0)
    assert pace.is_short(1, 0.0)


def test_a_model_that_always_waits_is_not_short():
    pace = LatencyEstimate()
    for _ in range(8):
        pace.note(1, BUSY, False, 0.0)
    assert not pace.is_short(1, 0.0)


def test_a_misjudged_batch_keeps_the_model_out_of_the_loop_for_a_while():
    pace = LatencyEstimate()
    pace.note(1, SHORT, False, 0.0)
    pace.note(1, RunTime(1.0, 1.0), True, 100.0)
    assert not pace.is_short(1, 101.0)
    assert pace.is_short(1, 200.0)


@pytest.mark.parametrize("was_inline", [True, False])
def test_a_model_that_took_seconds_once_stays_out_of_the_loop(was_inline):
    pace = LatencyEstimate()
    pace.note(1, SHORT, False, 0.0)
    pace.note(1, RunTime(0.0, 2.0), was_inline, 1.0)
    pace.note(1, SHORT, False, 2.0)
    assert not pace.is_short(1, 500.0)
    assert pace.is_short(1, 700.0)


def test_a_batch_that_waited_once_may_stay_in_the_loop_but_not_one_that_always_waits():
    pace = LatencyEstimate()
    pace.note(1, SHORT, False, 0.0)
    for now_s in (100.0, 101.0):
        pace.note(1, RunTime(0.0, 1.0), True, now_s)
        assert pace.is_short(1, now_s)
    pace.note(1, SHORT, True, 102.0)
    for now_s in (103.0, 104.0, 105.0):
        assert pace.is_short(1, now_s)
        pace.note(1, RunTime(0.0, 1.0), True, now_s)
    assert not pace.is_short(1, 106.0)


def test_a_model_that_has_become_slow_is_forgotten_to_be_short():
    pace = LatencyEstimate()
    pace.note(1, SHORT, False, 0.0)
    for _ in range(8):
        pace.note(1, LONG, True, 0.0)
    assert not pace.is_short(1, 0.0)


jobs = st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(1, 12)), max_size=40)


@given(jobs, st.integers(1, 16))
def test_every_job_runs_once_in_a_batch_that_keeps_the_rules(plan, max_rows):
    full = batch_queue(*(job(n, key, rows) for n, (key, rows) in enumerate(plan)), max_rows=max_rows)
    seen = []
    while full.wait_s(0.0) is not None:
        batch = full.take()
        assert len({each.key for each in batch}) == 1
        assert len(batch) == 1 or (batch[0].key is not None and sum(each.rows for each in batch) <= max_rows)
        seen += inputs(batch)
    assert sorted(seen) == list(range(len(plan)))
    assert len(full) == 0


def test_a_size_that_was_never_timed_is_judged_by_its_neighbours():
    estimate = LatencyEstimate()
    assert not estimate.is_short(1, 0.0)
    estimate.note(4, RunTime(0.0004, 0.0004), False, 0.0)
    assert estimate.is_short(1, 0.0), "no longer than a larger one"
    assert estimate.is_short(8, 0.0), "no longer than twice as many rows take"
    assert not estimate.is_short(16, 0.0)
    estimate.note(16, RunTime(0.00045, 0.0005), False, 0.0)
    assert estimate.is_short(32, 0.0)
    for rows in (4, 16):
        for _ in range(8):
            estimate.note(rows, RunTime(0.0004, 0.5), False, 0.0)
    assert not estimate.is_short(32, 0.0), "what waits for a device or a disk tells nothing"


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-5, 1e-2), st.floats(0, 5e-4), st.lists(st.integers(1, 64), min_size=1, max_size=30))
def test_a_guess_about_a_steady_model_is_never_wrong_to_the_long_side(fixed_s, row_s, sizes):
    """Time that grows with the rows, and no faster: what the loop takes is short, though it was never timed."""
    estimate = LatencyEstimate()
    for rows in sizes:
        took_s = fixed_s + row_s * rows
        # Two sizes of one magnitude differ by less than twice.
        assert not estimate.is_short(rows, 0.0) or took_s < 4 * INLINE_S
        estimate.note(rows, RunTime(took_s, took_s), False, 0.0)
