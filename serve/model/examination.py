"""Findings of a trial beyond the answers: requests kept apart, weights written, batches. Only workers import this."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from serve.errors import CheckpointError
from serve.model import example_variants
from serve.model.batch_independence import why_alone
from serve.model.request_state import changed, find_mixing, snapshot
from serve.model.tensor_versions import Versions
from serve.model.torch_predictor import TorchPredictor
from serve.model.warm_up import limit


@dataclass(frozen=True)
class Examined:
    """What was found.

    Args:
        alone_because: why requests may not share one run; nothing where they may.
        kept: names of what requests leave on the model's objects, though no answer showed it.
        written: names of the parameters and buffers that answering has changed.
    """

    alone_because: str
    kept: tuple[str, ...]
    written: tuple[str, ...]
    versions: Versions


@dataclass(frozen=True)
class Examiner:
    """Examines one model."""

    servable: Any
    predictor: TorchPredictor
    example: object
    known: Sequence[object]
    versions: Versions
    most_rows: int
    patience_s: float

    def examine(self) -> Examined:
        """Examine it.

        Raises:
            CheckpointError: a request is answered with what another one has left behind.
        """
        recent = Versions(self.predictor.module)
        self.predictor.predict(self.example)
        written = tuple(sorted({*self.versions.written(), *recent.touched()}))
        # Where its weights change, answers do, whoever else asks.
        kept = () if written else self._require_apart()
        if not getattr(self.servable, "batchable", True):
            return Examined("batchable is False", kept, written, self.versions)
        return Examined(self._why_alone(), kept, written, self.versions)

    def _why_alone(self) -> str:
        others = (prepared for _, prepared in self._others())
        example = self.predictor.prepare(self.example)
        # How long a run takes may depend on its numbers; that is no reason to refuse the model.
        try:
            return limit(lambda: why_alone(self.predictor, example, others, self.most_rows), self.patience_s)
        except CheckpointError as error:
            return f"the trial of joined requests: {error.message}"

    def _require_apart(self) -> tuple[str, ...]:
        """Refuse a model that mixes requests, and name what they leave behind in one that does not."""
        other = self._find_other()
        self.predictor.predict(self.example)
        module, names = self.predictor.module, set()
        before = snapshot(self.servable, module)
        for inputs in (other, self.example):
            self.predictor.predict(inputs)
            after = snapshot(self.servable, module)
            names |= set(changed(before, after))
            before = after
        try:
            difference = find_mixing(self.predictor, self.example, other)
        except Exception as error:  # the user's code, which may fail of what it finds
            difference = f": {type(error).__name__}: {error}"
        if difference:
            raise CheckpointError(
                "state",
                f"a request is answered with what another one left on {', '.join(sorted(names)) or 'the model'}: "
                f"outputs{difference}",
                hint="hand it on in what inputs_to_tensors() and run_module() return",
            )
        return tuple(sorted(names))

    def _find_other(self) -> object:
        """Find inputs that are answered otherwise than the example; the example itself where there are none."""
        answer = self.predictor.predict(self.example)
        found = self.example
        for inputs, prepared in self._others():
            with contextlib.suppress(Exception):  # inputs that the model has nothing for
                raw = self.predictor.postprocess(self.predictor.run(prepared))
                found = inputs
                if raw != answer:
                    break
        return found

    def _others(self) -> Iterator[tuple[object, Any]]:
        for inputs in (*self.known, *example_variants.vary_inputs(self.example)):
            prepared = None
            with contextlib.suppress(Exception):  # inputs that the model class refuses
                prepared = self.predictor.prepare(inputs)
            if prepared is not None:
                yield inputs, prepared
