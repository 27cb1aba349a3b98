"""The decision about a generation on trial: its properties, and its rate of false alarms by simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.rollout.decision import (
    CRASH,
    SIGNALS,
    TIME_BOUNDS_S,
    Count,
    Evidence,
    Rule,
    Step,
    decide,
    is_suspect,
    quantile,
    settle,
    smallest,
    surprise,
)

patient = settings(deadline=None, suppress_health_check=list(HealthCheck))

counts = st.builds(lambda bad, good: Count(bad, bad + good), st.integers(0, 200), st.integers(0, 300))
evidences = st.builds(
    Evidence,
    started_s=st.just(0.0),
    answers=st.integers(0, 10_000),
    counts=st.dictionaries(st.sampled_from(SIGNALS), counts),
    crashes=st.integers(0, 3),
)
rules = st.builds(
    Rule,
    ends_s=st.floats(0.1, 100),
    enough=st.integers(0, 5000),
    tolerated=st.dictionaries(st.sampled_from(SIGNALS), st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0])),
    wanted=st.dictionaries(st.sampled_from(["errors", "p99_ratio", "agreement"]), st.floats(0, 2)),
    alarm=st.sampled_from([1e-8, 1e-4]),
    at_end=st.sampled_from([Step.KEEP, Step.BACK]),
)


@patient
@given(evidences, rules, st.floats(0, 200), st.sampled_from(SIGNALS), st.integers(1, 50))
def test_more_bad_answers_never_help(evidence, rule, now_s, signal, more):
    before = decide(evidence, rule, now_s).step
    count = evidence.counts.get(signal, Count())
    worse = replace(evidence, counts={**evidence.counts, signal: Count(count.bad + more, count.of + more)})
    after = decide(worse, rule, now_s).step
    assert after is Step.BACK or before is not Step.BACK


@patient
@given(evidences, rules, st.floats(0, 200))
def test_it_ends_when_time_has_run_out_and_abort_beats_promote(evidence, rule, now_s):
    verdict = decide(evidence, rule, now_s)
    assert verdict.reason
    if now_s >= rule.ends_s:
        assert verdict.step is not Step.WAIT
    is_breached = evidence.crashes > 1 or any(
        surprise(evidence.counts.get(signal, Count()), share) >= math.log(2 / rule.alarm)
        for signal, share in rule.tolerated.items()
    )
    if is_breached:
        assert verdict.step is Step.BACK
        assert verdict.signal in (*SIGNALS, CRASH)


@patient
@given(st.sampled_from(SIGNALS), st.sampled_from([0.001, 0.05]), st.integers(0, 100))
def test_it_takes_the_smallest_count(signal, share, good):
    rule = Rule(60, tolerated={signal: share})
    least = smallest(share, rule)
    for bad in range(least):
        evidence = Evidence(0.0, counts={signal: Count(bad, bad + good)})
        assert decide(evidence, rule, 1.0).step is Step.WAIT
    assert decide(Evidence(0.0, counts={signal: Count(least, least)}), rule, 1.0).step is Step.BACK


def run_trial(bad_answers, rule, look_every):
    """Look at a trial every few answers, as the thread does; return at which answer it went back, or `None`."""
    total, settled = numpy.cumsum(bad_answers), {}
    for end in range(look_every, len(total) + 1, look_every):
        evidence = Evidence(0.0, end, {"errors": Count(int(total[end - 1]), end)}, settled)
        settled = settle(evidence, rule)
        if decide(evidence, rule, 1.0).step is Step.BACK:
            return end
    return None


def test_what_breaks_late_is_found_as_soon():
    rule = Rule(60, tolerated={"errors": 0.001})
    early = run_trial([True] * 50, rule, 1)
    late = run_trial([False] * 20_000 + [True] * 50, rule, 1)
    assert early == smallest(0.001, rule)
    assert late - 20_000 <= early + 1


@pytest.mark.parametrize(("share", "least", "most"), [(0.02, 200, 1000), (0.005, 2000, 10_000), (0.0025, 5000, 40_000)])
def test_what_is_worse_than_tolerated_is_found(share, least, most):
    rule, draw = Rule(60, tolerated={"errors": 0.001}), numpy.random.default_rng(1)
    found = [run_trial(draw.random(100_000) < share, rule, 50) for _ in range(20)]
    assert None not in found
    assert least < numpy.median(found) < most


@pytest.mark.parametrize("alarm", [1e-2, 1e-3])
def test_the_rate_of_false_alarms(alarm):
    """At the tolerated share itself, and with an alarm that can be seen: the bound holds for each thousand answers.

    A suspicion begins with a bad answer, of which a thousand answers have one; Ville's inequality bounds each.
    """
    rule, draw = Rule(60, tolerated={"errors": 0.001}, alarm=alarm), numpy.random.default_rng(2)
    trials, answers = 400, 2000
    alarms = sum(run_trial(draw.random(answers) < 0.001, rule, 20) is not None for _ in range(trials))
    assert 0 < alarms / trials <= 20 * alarm * answers / 1000
    # A tenth of the tolerated share is what a good model on a bad machine may have.
    assert sum(run_trial(draw.random(answers) < 0.0001, rule, 20) is not None for _ in range(trials)) <= trials * alarm


@patient
@given(st.lists(st.integers(0, 50), min_size=64, max_size=64), st.floats(0.01, 0.99))
def test_quantiles_lie_among_the_values(times, share):
    found = quantile(times, share)
    assert found == 0.0 if not sum(times) else found in TIME_BOUNDS_S


def test_one_slow_request_is_no_suspicion():
    steady = [0] * 64
    steady[20] = 100
    one_slow = [*steady[:-1], 3]
    slower = [0] * 64
    slower[28] = 100
    rule = Rule(60)
    assert not is_suspect(Evidence(0.0, times=[one_slow], times_before=[steady]), rule)
    assert is_suspect(Evidence(0.0, times=[slower], times_before=[steady]), rule)
    few = [0] * 28 + [19] + [0] * 35
    assert not is_suspect(Evidence(0.0, times=[few], times_before=[steady]), rule)
