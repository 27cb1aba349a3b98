"""On the trainer's side: a checkpoint, loaded as a server of the settings loads it, and what it is asked.

Golden requests, whose missing answers it gives, or which are made of recorded ones; and recorded requests as a trial:
what would its answers have been?"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve import durable_files
from serve.checkpoint.manifest import (
    ABSOLUTE_TOLERANCE,
    RELATIVE_TOLERANCE,
    Manifest,
    Stored,
    golden_issues,
    parse_golden,
)
from serve.errors import PublishError, ServeError
from serve.inference.recorder import RECORDED, read_recorded
from serve.model.answers import as_json, disagreements
from serve.settings.settings import Settings, load_settings

if TYPE_CHECKING:
    from serve.model.loader import Loaded
    from serve.model.torch_predictor import TorchPredictor
    from serve.model.trial import Say

_OF_RECORDED = 16
_REPEATS = 3
_MARGIN = 4.0  # of what repeated answers differ by, until a difference is one
_MOST_SHOWN, _MOST_PAIRS = 3, 5000


def read_golden(path: Path, checkpoint: Path, model: str | None = None) -> list[dict[str, object]]:
    """Read golden requests, a JSON list of `{"inputs": …}`, and compute missing answers; raises `ServeError`."""
    try:
        stated = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PublishError(f"{path}: {error}", hint='write a JSON list of {"inputs": …}') from error
    asked = [one for one in stated if isinstance(one, dict)] if isinstance(stated, list) else []
    missing = [one for one in asked if "inputs" in one and "outputs" not in one]
    for one in missing:
        one["outputs"] = None
    issues = golden_issues(stated)
    if issues:
        raise PublishError(f"{path}: " + "; ".join(issues))
    if missing:
        predictor = load_own(load_settings(os.environ, Path.cwd()).find(model), checkpoint).predictor
        for one in missing:
            one["outputs"] = as_json(predictor.predict(one["inputs"]))
    return [asdict(one) for one in parse_golden(stated)]


def record_golden(checkpoint: Path, model: str | None = None) -> list[dict[str, object]]:
    """Make golden requests of what was recorded, with the answers of a checkpoint; raises `ServeError`."""
    settings = load_settings(os.environ, Path.cwd()).find(model)
    chosen = choose(find_recorded(settings, None), _OF_RECORDED)
    return make_golden(chosen, load_own(settings, checkpoint).predictor)


def check(checkpoint: Path, model: str | None = None) -> None:
    """Load a checkpoint as a server of the settings does; raises `ServeError` where that would refuse it."""
    try:
        load_own(load_settings(os.environ, Path.cwd()).find(model), checkpoint)
    except ServeError:
        raise
    except Exception as error:  # whatever the model's own code raises
        hint = "a server could not load it"
        raise PublishError(f"{checkpoint.name}: {type(error).__name__}: {error}", hint) from error


def load_own(settings: Settings, checkpoint: Path, say: Say | None = None) -> Loaded:
    """Load a checkpoint as a server would, with all gates but those that it decides itself; raises `ServeError`."""
    from serve.model.loader import ModelLoader  # brings torch

    sha256 = durable_files.hash_file(checkpoint)
    # What a server may unpickle is that server's decision, and a signature comes after this.
    allowed = replace(settings, allowed_pickles=frozenset({sha256}), verify_key=(), memory="unchecked")
    return ModelLoader(allowed, say=say).load(Stored(checkpoint, sha256, checkpoint.stat().st_size), Manifest())


def find_recorded(settings: Settings, file: Path | None) -> list[dict[str, Any]]:
    """Read what was recorded: a file, or what the server of the settings keeps. Raises `PublishError`: nothing was."""
    path = file or settings.store / RECORDED
    found = read_recorded(path, settings.record_keep if file is None else 10**6, settings.record_key)
    if not found:
        hint = "set record_share, for example to 0.001, and let the server answer requests"
        if path.exists():
            hint = "are they encrypted? record_key names the file of the key"
        raise PublishError(f"{path}: expected recorded requests, found none", hint=hint)
    return found


def choose(recorded: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Choose requests whose answers lie far apart: each time the one farthest from all that were chosen before it."""
    points = [[number for number in _numbers(one["outputs"]) if math.isfinite(number)] for one in recorded]
    scales = [max((abs(point[place]) for point in points if len(point) > place), default=0.0) or 1.0
              for place in range(max(map(len, points)))]  # fmt: skip
    chosen = [0]
    nearest = [_distance(point, points[0], scales) for point in points]
    while len(chosen) < min(count, len(recorded)):
        farthest = max(range(len(points)), key=lambda place: nearest[place])
        if nearest[farthest] == 0.0:
            break  # the rest has the answers of those that were chosen
        chosen.append(farthest)
        nearest = [min(known, _distance(point, points[farthest], scales)) for known, point in zip(nearest, points)]
    return [recorded[place] for place in sorted(chosen)]


def make_golden(recorded: Sequence[Mapping[str, Any]], predictor: TorchPredictor | None) -> list[dict[str, object]]:
    """Turn recorded requests into golden ones, with the answers of a predictor, and tolerances by how those differ."""
    golden = []
    for one in recorded:
        stated: dict[str, object] = {"inputs": one["inputs"], "outputs": one["outputs"]}
        if predictor is not None:
            first, *others = [_answer(predictor, one["inputs"]) for _ in range(_REPEATS)]
            found = max((_largest(first, other) for other in others), default=0.0)
            stated.update(outputs=first, rtol=max(RELATIVE_TOLERANCE, _MARGIN * found), atol=ABSOLUTE_TOLERANCE)
        golden.append(stated)
    return golden


def _answer(predictor: TorchPredictor, inputs: object) -> object:
    try:
        answer = as_json(predictor.predict(inputs))
    except Exception as error:  # the model's code may raise anything
        reason = f"{type(error).__name__}: {error}"
    else:
        if all(map(math.isfinite, _numbers(answer))):
            return answer
        reason = "the answer is not finite"
    hint = "see by serve replay which requests it cannot answer"
    raise PublishError(f"a recorded request cannot be a golden one: {reason}", hint=hint)


@dataclass(frozen=True)
class Replayed:
    """How a checkpoint answers recorded requests, by their places."""

    requests: int
    agreed: int
    differed: tuple[int, ...]  # whose answers are others
    failed: Mapping[int, str]  # why they were not answered
    worst: tuple[int, float] | None  # whose answer is farthest from the recorded one, and by which relative difference
    spread: Mapping[str, int]  # how many answers differ by at most 1e-6, 1e-5 … 1, and more
    shown: tuple[str, ...]  # the first differences, in words
    pairs: tuple[tuple[float, float, bool], ...] = ()  # a number then and now; whether the answers differ

    def as_json(self) -> dict[str, Any]:
        """Return it as an object, without the pairs; numbers that JSON does not have are null."""
        found = asdict(self)
        del found["pairs"]
        if self.worst is not None and not math.isfinite(self.worst[1]):
            found["worst"] = (self.worst[0], None)
        return found


_BOUNDS = (*(10.0**power for power in range(-6, 1)), math.inf)


def replay(recorded: Sequence[Mapping[str, Any]], predictor: TorchPredictor, compare: str) -> Replayed:
    """Have recorded requests answered again. `compare`: `tolerance`, `exact` or `top1`, as for a canary."""
    differed, failed, shown, distances = [], {}, [], {}
    pairs: list[tuple[float, float, bool]] = []
    for place, one in enumerate(recorded):
        try:
            actual = as_json(predictor.predict(one["inputs"]))
        except Exception as error:  # the model's code may raise anything
            failed[place] = f"{type(error).__name__}: {error}"
            continue
        expected = one["outputs"]
        distances[place] = _largest(expected, actual)
        numbers = list(zip(_numbers(expected), _numbers(actual)))
        issues = disagreements(expected, actual, compare, (RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE))
        if issues:
            differed.append(place)
            shown += [f"request {place}: outputs{issue}" for issue in issues[:1]]
        pairs += [(was, now, bool(issues)) for was, now in numbers[: max(1, _MOST_PAIRS // len(recorded))]]
    spread = dict.fromkeys(map(_label, _BOUNDS), 0)
    for distance in distances.values():
        spread[_label(next(bound for bound in _BOUNDS if not distance > bound))] += 1
    worst = max(distances.items(), key=lambda found: found[1], default=None)
    agreed = len(recorded) - len(differed) - len(failed)
    words = tuple(shown[:_MOST_SHOWN])
    return Replayed(len(recorded), agreed, tuple(differed), failed, worst, spread, words, tuple(pairs))


def plot(found: Replayed, title: str) -> str:
    """Draw each number as it was recorded (to the right) and as it is now (upwards), as SVG; equal ones are level."""
    shown = [pair for pair in found.pairs if math.isfinite(pair[0]) and math.isfinite(pair[1])]
    low = min((min(was, now) for was, now, _ in shown), default=0.0)
    span = max((max(was, now) for was, now, _ in shown), default=1.0) - low or 1.0

    def at(value: float) -> float:
        return round(40 + 400 * (value - low) / span, 1)

    dots = [
        f'<circle cx="{at(was)}" cy="{480 - at(now)}" r="2.5" fill="{"#c33" if differs else "#27c"}" opacity=".6"/>'
        for was, now, differs in sorted(shown, key=lambda pair: pair[2])
    ]
    text = f"{found.agreed} of {found.requests} answers agree; {low:.4g} to {low + span:.4g}"
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 500" font-family="sans-serif" font-size="12">',
            '<rect width="480" height="500" fill="#fff"/><path d="M40 440L440 40" stroke="#999"/>',
            '<path d="M40 40V440H440" fill="none" stroke="#333"/>',
            *dots,
            f'<text x="40" y="24">{escape(title)}: {text}</text>',
            '<text x="440" y="460" text-anchor="end">recorded</text><text x="34" y="52" text-anchor="end">now</text>',
            "</svg>",
        ]
    )


def _label(bound: float) -> str:
    return "more" if math.isinf(bound) else f"{bound:g}"


def _distance(one: Sequence[float], other: Sequence[float], scales: Sequence[float]) -> float:
    if len(one) != len(other):
        return math.inf
    return max((abs(a - b) / scale for a, b, scale in zip(one, other, scales)), default=0.0)


def _largest(expected: object, actual: object) -> float:
    """Return the largest relative difference of two answers; infinity for answers of another form."""
    one, other = list(_numbers(expected)), list(_numbers(actual))
    if len(one) != len(other):
        return math.inf
    found = [abs(a - b) / max(abs(a), abs(b), ABSOLUTE_TOLERANCE) for a, b in zip(one, other) if a != b]
    return max((math.inf if math.isnan(each) else each for each in found), default=0.0)


def _numbers(outputs: object) -> Iterator[float]:
    if isinstance(outputs, Mapping):
        for key in sorted(outputs):
            yield from _numbers(outputs[key])
    elif isinstance(outputs, (list, tuple)):
        for part in outputs:
            yield from _numbers(part)
    elif isinstance(outputs, (int, float)):
        yield float(outputs)
    elif outputs is not None:  # other texts are other numbers, which is all that is asked of them
        yield zlib.crc32(str(outputs).encode()) / 2**32
