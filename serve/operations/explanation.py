"""What would happen to the next checkpoint under the settings of today, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from serve.operations.operations import Status
from serve.rollout.decision import SLOWER, Rule, probation_of, rollout_of, smallest, why_no_probation
from serve.settings.settings import CANARY, SHADOW, STABLE, Settings

_RETRIES = {
    "finite": "Answers that are not finite are made again by it before they leave.",
    "all": "Every answer that it makes well and the new one spoils is made again before it leaves.",
    "off": "Spoiled answers leave as they are.",
}
_MEMORY = {
    "availability": "It is loaded beside what is live, or refused for now where that does not fit.",
    "preserve": "It is loaded beside what is live; it is not on probation where a third one would not fit.",
    "resource": "What is live is unloaded first; requests are answered 503 meanwhile.",
    "unchecked": "It is loaded beside what is live, without a look at free memory.",
}


def explain(settings: Settings, status: Status | None) -> Iterator[str]:
    """Explain what becomes of the next checkpoint, a sentence or two for each step; no `status` where no server ran."""
    if status is not None and status.pin is not None:
        yield f"Nothing: version {status.pin.version} is pinned. What follows holds after serve unpin."
    look = "by file events and " if settings.watch != "poll" else ""
    yield f"It is noticed in {settings.checkpoints} {look}at the latest after {settings.poll_s:g} s."
    signed = ", its signature" if settings.verify_key else ""
    yield (
        f"Its sha256{signed}, format and names are proven; its weights must be finite; the example, golden requests "
        f"and validate() have {settings.warm_up_timeout_s:g} s. What fails is refused, and what is live stays."
    )
    yield _MEMORY[settings.memory]
    if settings.commit == "host":
        yield f"When every worker is prepared, within {settings.commit_timeout_s:g} s, all move at one instant."
    else:
        yield "Each worker moves when it is prepared."
    yield from _explain_probation(settings, status)
    if settings.label in (CANARY, SHADOW):
        yield from _explain_rollout(settings)


def _explain_probation(settings: Settings, status: Status | None) -> Iterator[str]:
    rule = probation_of(settings)
    if rule is None:
        yield f"It is not on probation: {why_no_probation(settings)}."
        return
    if status is None or status.committed is None:
        yield "The first generation is not on probation: there is nothing to go back to."
    size = f" ({status.committed.size_bytes:,} bytes)" if status is not None and status.committed is not None else ""
    early = f", or {rule.enough:,} answers" if rule.enough else ""
    yield f"It is on probation for {rule.ends_s:g} s{early}; the generation before stays loaded{size}."
    yield f"All workers go back to that one at one instant when {_describe_signals(rule)}, or 2 workers die."
    yield _RETRIES[settings.retry_spoiled]


def _describe_signals(rule: Rule) -> str:
    watched = {signal: share for signal, share in rule.tolerated.items() if share < 1 and signal != SLOWER}
    parts = [
        f"{smallest(share, rule)} in succession are spoiled, or more than {share:.2%} ({', '.join(signals)})"
        for share in sorted(set(watched.values()))
        if (signals := [signal for signal in watched if watched[signal] == share])
    ]
    if rule.tolerated.get(SLOWER, 1.0) < 1:
        parts.append(f"runs take more than {rule.slower:g} times as long")
    return "answers get worse: " + "; ".join(parts)


def _explain_rollout(settings: Settings) -> Iterator[str]:
    rule, share = rollout_of(settings), f"{settings.share:.0%}"
    if settings.label == CANARY:
        yield f"It answers {share} of the requests; the same X-Canary-Key always gets the same side."
    else:
        yield f"It is asked {share} of the requests as well, after they were answered; no client sees its answers."
    if rule is None:
        yield f"Nothing follows by itself, as promote is not set: publish it to the place of the {STABLE} label."
        return
    limits = {
        "errors": "at most {:.2%} bad ones",
        "p99_ratio": "a p99 of at most {:g} times the stable one's",
        "agreement": "at least {:.2%} agreeing",
    }
    wanted = ", ".join(limits[key].format(limit) for key, limit in rule.wanted.items())
    outcome = {"promote": "it becomes the stable one", "hold": "the log has the verdict", "refuse": "it stays a shadow"}
    counted, then = ("answers", "promote") if settings.label == CANARY else ("comparisons", settings.then)
    yield f"After {rule.enough:,} {counted}{' with ' + wanted if wanted else ''}, {outcome[then]}."
    is_held = settings.then == "hold" and settings.label == SHADOW
    against = "stays a shadow, and the log has it" if is_held else "is refused"
    yield f"Where evidence speaks against it, it {against}; after {rule.ends_s:g} s without a verdict it ends."
