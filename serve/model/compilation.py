"""A quicker form of a module, where there is one: TorchScript, or what `torch.compile` makes.

It is tried after all gates, on a model that would go live as it is. It is taken only if it answers as the module itself
does and was measured to be quicker; whatever goes wrong, the module itself is served, and the log states why. The
weights are the same tensors, so a quicker form costs no second copy of them. Only workers import this. Written for
torch 1.12.1 to 2.13, of which those before 2.0 cannot compile.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from serve.checkpoint.golden import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE
from serve.errors import CheckpointError
from serve.model.golden_check import as_json, differences
from serve.model.torch_predictor import TorchPredictor
from serve.model.warm_up import limit

_RUNS = 10
# A gain that is smaller than this may be chance.
_LEAST_GAIN = 1.03


@dataclass(frozen=True)
class Verdict:
    """What came of trying a quicker form.

    Args:
        gain: how many times as fast the quicker form is; 1 where the module itself is served.
        reason: why it is; nothing where the quicker form is.
    """

    predictor: TorchPredictor
    gain: float = 1.0
    reason: str = ""


def optimize(predictor: TorchPredictor, example: object, how: str, rows: Sequence[int], timeout_s: float) -> Verdict:
    """Try a quicker form of a predictor's module.

    Args:
        rows: how many times the example's rows are joined to the batches that decide; 1 is among them.

    Returns:
        What is to be served.
    """
    try:
        return limit(lambda: _try(predictor, example, how, rows), timeout_s)
    except Exception as error:  # scripting and compiling run the model's code, a compiler, and more
        said = error.message if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
        return Verdict(predictor, reason=(said.strip().splitlines() or [""])[0][:300])


def _try(predictor: TorchPredictor, example: object, how: str, rows: Sequence[int]) -> Verdict:
    quicker = replace(predictor, module=_transform(predictor.module, how))
    prepared = predictor.prepare(example)
    batches = [predictor.stack([prepared] * count) if count > 1 else prepared for count in rows]
    for batch in batches:
        found = differences(
            as_json(predictor.postprocess(predictor.run(batch))),
            as_json(quicker.postprocess(quicker.run(batch))),
            RELATIVE_TOLERANCE,
            ABSOLUTE_TOLERANCE,
        )
        difference = next(found, None)
        if difference is not None:
            return Verdict(predictor, reason=f"it answers differently: outputs{difference}")
    gain = min(_measure_gain(predictor, quicker, batch) for batch in batches)
    if gain < _LEAST_GAIN:
        return Verdict(predictor, reason=f"it is not faster: {gain:.2f} times as fast")
    return Verdict(quicker, gain)


def _transform(module: Any, how: str) -> Any:
    if how == "script":
        return torch.jit.script(module)
    if not hasattr(torch, "compile"):
        raise RuntimeError(f"torch {torch.__version__} cannot compile; 2.0 and later can")
    # Batches have any number of rows; without this each number would be compiled for when it first comes.
    return torch.compile(module, dynamic=True)


def _measure_gain(one: TorchPredictor, other: TorchPredictor, batch: Any) -> float:
    """Compare the shortest of some runs, taken in turn, so that what else the machine does hits both."""
    shortest_s = [float("inf"), float("inf")]
    for _ in range(_RUNS):
        for place, predictor in enumerate((one, other)):
            began_s = time.perf_counter()
            predictor.run(batch)
            shortest_s[place] = min(shortest_s[place], time.perf_counter() - began_s)
    return shortest_s[0] / shortest_s[1]
