"""The rules of trials, from the settings."""

from __future__ import annotations

from collections.abc import Mapping

from serve.rollout.decision import DISAGREED, ERRORS, FINITE, RANGE, SLOWER, UNHEALTHY, Rule, Step
from serve.settings.settings import Settings

# A share of requests in which a good model may fail, for reasons of the machine.
_NOISE = 0.001
# Of pairs of runs, one on each generation, the share in which a good model seems to be several times slower: as seen
# where twenty processes wanted each core.
_NOISE_OF_TIMES = 0.2


def probation_of(settings: Settings) -> Rule | None:
    """Return the rule of a probation; `None` where there is none: `why_no_probation`."""
    if why_no_probation(settings):
        return None
    stated = settings.probation_rule
    return Rule(
        ends_s=settings.probation_s,
        enough=settings.probation_requests,
        tolerated=_tolerated(stated),
        slower=stated.get("slower", 3.0),
        alarm=stated.get("false_alarm", 1e-8),
    )


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
        ends_s=settings.timeout_s,
        enough=int(promote.get("requests", 1000)),
        tolerated=tolerated,
        wanted=wanted,
        slower=abort.get("slower", 3.0),
        at_end=Step.BACK,
    )


def _tolerated(stated: Mapping[str, float]) -> dict[str, float]:
    shares = {signal: stated.get(signal, _NOISE) for signal in (ERRORS, FINITE, RANGE, UNHEALTHY)}
    return {**shares, SLOWER: _NOISE_OF_TIMES if stated.get("slower", 3.0) else 1.0}
