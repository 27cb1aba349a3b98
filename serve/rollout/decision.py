"""The rules of trials, and the decision about a generation that is on trial. Pure: it reads no clock and no file.

Each signal is a share of bad answers, of which a rule tolerates some. The test is Wald's sequential likelihood ratio of
"twenty times the tolerated share", and of "three times", against "the tolerated share": under the latter it exceeds 1 /
alarm with a probability of at most `alarm`, however often it is looked at (Ville's inequality). What spoke for the
generation is not set off against what comes later (Page's CUSUM), so that one that breaks after a million good answers
is found as soon as one that was broken from the start."""

from __future__ import annotations

import enum
import itertools
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from serve.settings.settings import Settings

SPOILED = ERRORS, FINITE, RANGE, UNHEALTHY = "errors", "finite", "range", "unhealthy"
SLOWER, DISAGREED = "slower", "disagreed"
SIGNALS = (*SPOILED, SLOWER, DISAGREED)
CRASH = "crash"
LONG_S = 0.05  # longer runs are timed on both only on suspicion: a request would wait for too long
MOST_SHARED = 50  # after so many answers that both spoil, and none that only the new one does, nothing is meant
_CRASHES_ALLOWED = 1  # one worker may die of something else
_TIMES_TOLERATED = (20, 3)  # many are found soon, few are found at all
_FEWEST_RUNS = 20  # runs of about the same number of rows, before their median means anything
_FEWEST_COMPARED = 0.1  # of the answers that are enough, before they agree or not: under load most are skipped
TIME_BOUNDS_S = tuple(20e-6 * 1.25**power for power in range(63))


class Count(NamedTuple):
    """How many of some answers were bad."""

    bad: int = 0
    of: int = 0


Settled = Mapping[tuple[str, int], Count]


class Step(enum.Enum):
    """What is to be done."""

    WAIT = "wait"
    KEEP = "keep"
    BACK = "back"


class Verdict(NamedTuple):
    """A decision, and what it rests on, in words."""

    step: Step
    reason: str
    signal: str = ""


@dataclass(frozen=True)
class Evidence:
    """What is known of a generation on trial, summed over all workers of the host."""

    started_s: float  # when the trial began, on the clock of `now_s`
    answers: int = 0  # requests that it was asked
    counts: Mapping[str, Count] = field(default_factory=dict)  # by signal, since the trial began
    # The part of `counts` up to the last moment at which it spoke for the generation, by signal and by how many times
    # the tolerated share is tested for; `settle`.
    settled: Settled = field(default_factory=dict)
    crashes: int = 0  # workers that died meanwhile
    times: Sequence[Sequence[int]] = ()  # of its runs, a histogram over `TIME_BOUNDS_S` for each magnitude of rows
    times_before: Sequence[Sequence[int]] = ()  # of the generation before

    @property
    def bad(self) -> dict[str, list[int]]:
        """The counts of the signals that were seen, for the log."""
        return {signal: list(count) for signal, count in self.counts.items() if count.bad}


@dataclass(frozen=True)
class Rule:
    """When a trial ends, and how."""

    ends_s: float  # seconds after which it ends in any case
    enough: int = 0  # answers after which it may end before that; 0 for none
    # By signal, the share of bad answers that is noise; a signal that is absent, or 1, is not looked at.
    tolerated: Mapping[str, float] = field(default_factory=dict)
    # What must hold for `KEEP` at `enough`: most `errors` and `p99_ratio`, least `agreement`.
    wanted: Mapping[str, float] = field(default_factory=dict)
    slower: float = 3.0  # how many times longer than before a run may take
    alarm: float = 1e-8  # how probable it is that noise of the tolerated share ends a trial
    at_end: Step = Step.KEEP  # the step when time has run out


def decide(evidence: Evidence, rule: Rule, now_s: float) -> Verdict:
    """Decide about a trial; what speaks against the generation goes before what speaks for it."""
    if evidence.crashes > _CRASHES_ALLOWED:
        return Verdict(Step.BACK, f"{evidence.crashes} workers died while it was on trial", CRASH)
    for signal, tolerated in rule.tolerated.items():
        most = max(surprise(_recent(evidence, signal, times), tolerated, times) for times in _TIMES_TOLERATED)
        if most >= _limit(rule):
            return Verdict(Step.BACK, describe(signal, evidence.counts[signal], tolerated, rule), signal)
    unmet = list(_unmet(evidence, rule))
    if rule.enough and evidence.answers >= rule.enough and not unmet:
        return Verdict(Step.KEEP, f"{evidence.answers} answers, {_sum_up(evidence)}")
    if now_s - evidence.started_s >= rule.ends_s:
        found = "; ".join(unmet) if unmet and rule.enough else _sum_up(evidence)
        return Verdict(rule.at_end, f"{rule.ends_s:g} s and {evidence.answers} answers, {found}")
    return Verdict(Step.WAIT, "on trial")


def _sum_up(evidence: Evidence) -> str:
    bad = [f"{count.bad} of {count.of} {signal}" for signal, count in evidence.counts.items() if count.bad]
    return f"{', '.join(bad)}, which is tolerated" if bad else "nothing against it"


def settle(evidence: Evidence, rule: Rule) -> Settled:
    """Return `settled` for the next evidence: up to now, for each test that speaks for the generation."""
    return {
        (signal, times): evidence.counts[signal]
        if surprise(_recent(evidence, signal, times), tolerated, times) < 0
        else evidence.settled.get((signal, times), Count())
        for signal, tolerated in rule.tolerated.items()
        if signal in evidence.counts
        for times in _TIMES_TOLERATED
    }


def surprise(count: Count, tolerated: float, times: int = _TIMES_TOLERATED[0]) -> float:
    """Return the logarithm of the likelihood ratio of many times the tolerated share of bad answers against it."""
    if not 0 < tolerated < 1:
        return -math.inf if tolerated else math.inf if count.bad else 0.0
    many = min(times * tolerated, (1 + tolerated) / 2)
    good = count.of - count.bad
    return count.bad * math.log(many / tolerated) + good * math.log((1 - many) / (1 - tolerated))


def smallest(tolerated: float, rule: Rule) -> int:
    """Return how many bad answers in succession end a trial."""
    return math.ceil(_limit(rule) / surprise(Count(1, 1), tolerated)) if 0 < tolerated < 1 else 1


def _limit(rule: Rule) -> float:
    return math.log(len(_TIMES_TOLERATED) / rule.alarm)


def describe(signal: str, count: Count, tolerated: float, rule: Rule) -> str:
    """Write what was found of a signal."""
    what = {
        ERRORS: "requests failed that the generation before answers",
        FINITE: "answers are not finite that the generation before gives finite",
        RANGE: "answers are outside of the declared range or set, and not so before",
        UNHEALTHY: "answers were rejected by healthy(), and not so before",
        SLOWER: f"runs took more than {rule.slower:g} times as long as on the generation before",
        DISAGREED: "answers differ",
    }[signal]
    return f"{signal}: {count.bad} of {count.of} {what}; tolerated is a share of {tolerated:g}"


def is_suspect(evidence: Evidence, rule: Rule) -> bool:
    """Whether runs seem to take too long, by their median among runs of about the same rows."""
    pairs = zip(evidence.times, evidence.times_before)
    fit = [(now, before) for now, before in pairs if min(sum(now), sum(before)) >= _FEWEST_RUNS]
    return any(quantile(now, 0.5) > rule.slower * quantile(before, 0.5) for now, before in fit)


def quantile(times: Sequence[int], share: float) -> float:
    """Return a quantile of a histogram over `TIME_BOUNDS_S`, in seconds; 0 of an empty one."""
    if not any(times):
        return 0.0
    place = bisect_left([*itertools.accumulate(times)], share * sum(times))
    return TIME_BOUNDS_S[min(place, len(TIME_BOUNDS_S) - 1)]


def p99_ratio(evidence: Evidence) -> float:
    """Return how many times longer the 99th percentile of runs is than before; infinite where one is not known."""
    now, before = ([sum(column) for column in zip(*times)] for times in (evidence.times, evidence.times_before))
    longest, longest_before = quantile(now, 0.99), quantile(before, 0.99)
    return longest / longest_before if longest and longest_before else math.inf


def _recent(evidence: Evidence, signal: str, times: int) -> Count:
    count, settled = evidence.counts.get(signal, Count()), evidence.settled.get((signal, times), Count())
    return Count(count.bad - settled.bad, count.of - settled.of)


def _unmet(evidence: Evidence, rule: Rule) -> list[str]:
    """What is wanted and not so."""
    errors = sum(evidence.counts.get(signal, Count()).bad for signal in SPOILED)
    compared = evidence.counts.get(DISAGREED, Count())
    found = {
        "errors": errors / max(evidence.answers, 1),
        "p99_ratio": p99_ratio(evidence),
        "agreement": 1 - compared.bad / compared.of if compared.of > rule.enough * _FEWEST_COMPARED else 0.0,
    }
    return [
        f"{name} {found[name]:.4g}, wanted {'at least' if name == 'agreement' else 'at most'} {limit:g}"
        for name, limit in rule.wanted.items()
        if (found[name] < limit if name == "agreement" else found[name] > limit)
    ]


_NOISE = 0.001  # a share of requests in which a good model may fail, for reasons of the machine
# Of pairs of runs, one on each generation, the share in which a good model seems to be several times slower: as seen
# where twenty processes wanted each core.
_NOISE_OF_TIMES = 0.2


def probation_of(settings: Settings) -> Rule | None:
    """Return the rule of a probation; `None` where there is none: `why_no_probation`."""
    if why_no_probation(settings):
        return None
    stated = settings.probation_rule
    return Rule(
        ends_s=settings.probation_s, enough=settings.probation_requests, tolerated=_tolerated(stated),
        slower=stated.get("slower", 3.0), alarm=stated.get("false_alarm", 1e-8),
    )  # fmt: skip


def why_no_probation(settings: Settings) -> str:
    """Return why a new generation is not watched, in words; nothing where it is."""
    if settings.probation_s <= 0:
        return "probation_s is 0"
    if settings.memory == "resource":
        return 'memory = "resource" keeps no second model'
    if settings.commit == "worker":
        return 'commit = "worker" moves each worker for itself'
    return "a shadow's answers reach no client" if settings.label == "shadow" else ""


def rollout_of(settings: Settings) -> Rule | None:
    """Return the rule by which a canary or a shadow is judged; `None` where `promote` states none."""
    promote, abort = settings.promote, settings.abort
    if not promote or settings.commit != "host":
        return None
    wanted = {key: limit for key, limit in promote.items() if key != "requests"}
    if settings.label == "shadow":
        tolerated = {DISAGREED: max(1 - promote.get("agreement", 1.0), _NOISE)}
    else:
        tolerated = {**_tolerated(abort), DISAGREED: abort.get("disagreed", 1.0)}
    return Rule(
        ends_s=settings.timeout_s, enough=int(promote.get("requests", 1000)), tolerated=tolerated, wanted=wanted,
        slower=abort.get("slower", 3.0), at_end=Step.BACK,
    )  # fmt: skip


def _tolerated(stated: Mapping[str, float]) -> dict[str, float]:
    shares = {signal: stated.get(signal, _NOISE) for signal in SPOILED}
    return {**shares, SLOWER: _NOISE_OF_TIMES if stated.get("slower", 3.0) else 1.0}
