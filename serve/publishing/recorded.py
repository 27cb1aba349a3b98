"""Recorded requests as golden ones, and as a trial of another checkpoint: what would its answers have been?"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.checkpoint.manifest import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE
from serve.errors import PublishError
from serve.inference.recorder import RECORDED, read_recorded
from serve.model.answers import as_json, differences, find_top

if TYPE_CHECKING:
    from serve.model.torch_predictor import TorchPredictor
    from serve.settings.settings import Settings

_REPEATS = 3
# Of what repeated answers differ by, until a difference is one.
_MARGIN = 4.0
_MOST_SHOWN = 3


def find_recorded(settings: Settings, file: Path | None) -> list[dict[str, Any]]:
    """Read what was recorded: a file, or what the server of the settings keeps. Raises `PublishError`: nothing was."""
    path = file or settings.store / RECORDED
    found = read_recorded(path, settings.record_keep if file is None else 10**6)
    if not found:
        hint = "set record_share, for example to 0.001, and let the server answer requests"
        raise PublishError(f"{path}: expected recorded requests, found none", hint=hint)
    return found


def choose(recorded: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Choose requests whose answers lie far apart: each time the one farthest from all that were chosen before it."""
    points = [_point(one["outputs"]) for one in recorded]
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
    """Turn recorded requests into golden ones.

    Args:
        predictor: answers each some times more, where there is one; its answers, and by how much they differ from each
            other, then become those of the golden request and its tolerances.
    """
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
    """How a checkpoint answers recorded requests.

    Args:
        differed: places of the requests whose answers are others.
        failed: why requests were not answered, by their places.
        worst: the place of the answer that is farthest from the recorded one, and its largest relative difference.
        spread: of the largest relative difference of each answer: how many are at most 1e-6, 1e-5 … 1, and above.
        shown: the first differences, in words.
    """

    requests: int
    agreed: int
    differed: tuple[int, ...]
    failed: Mapping[int, str]
    worst: tuple[int, float] | None
    spread: Mapping[str, int]
    shown: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as an object; numbers that JSON does not have are null."""
        found = asdict(self)
        if self.worst is not None and not math.isfinite(self.worst[1]):
            found["worst"] = (self.worst[0], None)
        return found


_BOUNDS = (*(10.0**power for power in range(-6, 1)), math.inf)


def replay(recorded: Sequence[Mapping[str, Any]], predictor: TorchPredictor, compare: str) -> Replayed:
    """Have recorded requests answered again. `compare`: `tolerance`, `exact` or `top1`, as for a canary."""
    differed, failed, shown, distances = [], {}, [], {}
    for place, one in enumerate(recorded):
        try:
            actual = as_json(predictor.predict(one["inputs"]))
        except Exception as error:  # the model's code may raise anything
            failed[place] = f"{type(error).__name__}: {error}"
            continue
        expected = one["outputs"]
        distances[place] = _largest(expected, actual)
        if compare == "top1":
            expected, actual = find_top(expected), find_top(actual)
        tolerances = (RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE) if compare == "tolerance" else (0.0, 0.0)
        issues = list(differences(expected, actual, *tolerances))
        if issues:
            differed.append(place)
            shown += [f"request {place}: outputs{issue}" for issue in issues[:1]]
    spread = dict.fromkeys(map(_label, _BOUNDS), 0)
    for distance in distances.values():
        spread[_label(next(bound for bound in _BOUNDS if not distance > bound))] += 1
    worst = max(distances.items(), key=lambda found: found[1], default=None)
    agreed = len(recorded) - len(differed) - len(failed)
    return Replayed(len(recorded), agreed, tuple(differed), failed, worst, spread, tuple(shown[:_MOST_SHOWN]))


def _label(bound: float) -> str:
    return "more" if math.isinf(bound) else f"{bound:g}"


def _point(outputs: object) -> list[float]:
    return [number for number in _numbers(outputs) if math.isfinite(number)]


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
