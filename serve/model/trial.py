"""The gates that a loaded model passes by answering, and the conclusions. Only workers import this.

Beyond its answers it is found out whether requests are kept apart, whether weights are written, and whether requests
may share a run. After all gates a quicker form of the module is tried, TorchScript or what `torch.compile` makes of the
same tensors. It is taken only if it answers as the module itself does and was measured to be quicker; whatever goes
wrong, the module itself is served, and the log states why. Written for torch 1.12.1 to 2.13."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import torch

from serve.checkpoint.formats import TORCHSCRIPT
from serve.errors import CheckpointError, TrialError
from serve.model.answers import as_json, describe, require_same_form
from serve.model.batch_independence import first_difference, vary_inputs, why_alone
from serve.model.request_state import Untouched, Versions, changed, find_mixing, sets_seed, snapshot
from serve.model.warm_up import Candidate, HangingError, Tried, limit, warm_up

if TYPE_CHECKING:
    from serve.model.loader import ReadPlan
    from serve.model.torch_predictor import TorchPredictor
    from serve.settings.settings import Settings

Say = Callable[..., None]
_JOINED_S = 20.0  # the longest trial of joined requests; an ordinary model needs less than a second
_TRIES = 3  # a difference counts if it comes each time: others may draw from the same source of chance


class Trial:
    """Tries loaded models."""

    def __init__(self, settings: Settings, say: Say) -> None:
        self._settings, self._say = settings, say
        self._hanging: dict[str, threading.Thread] = {}

    def require_ended(self, sha256: str) -> None:
        """Refuse what an earlier trial still runs with: each would hold one more model for ever."""
        thread = self._hanging.pop(sha256, None)
        if thread is not None and thread.is_alive():
            self._hanging[sha256] = thread
            reason = "an earlier warm-up of it still runs in this worker"
            raise TrialError("warm-up", reason, hint="restart the worker if it never ends")

    def run(
        self, plan: ReadPlan, built: Any, predictor: TorchPredictor, live: Mapping[str, str], longer: object
    ) -> TorchPredictor:
        """Try a model beside the form of what is `live`, and return it as it is served; raises `CheckpointError`."""
        manifest = plan.manifest
        try:
            tried = self._try(plan, built, predictor, longer)
        except HangingError as error:
            self._hanging[plan.stored.sha256] = error.thread
            raise
        require_same_form(manifest.interface, tried.form, "its manifest states")
        if self._settings.changed_interface == "refuse":
            require_same_form(live, tried.form, "the model that is live")
        predictor = replace(predictor, outputs=tried.outputs, interface=tried.form, origin=(plan.stored, manifest))
        examined: Examined = tried.examined
        if examined.alone_because:
            self._say("not_batched", reason=examined.alone_because)
        if examined.kept:
            self._say("state_kept", attributes=examined.kept)
            predictor.memory.inputs = predictor.memory.raw = True
        if predictor.memory.raw or predictor.memory.taken:
            # Not one for both: a conversion takes place in the event loop, which must not wait for a run.
            predictor = replace(predictor, turns=(threading.RLock(), threading.RLock()))
        predictor = replace(predictor, can_batch=not examined.alone_because, versions=examined.versions)
        # Take a quicker form of the module, if that is wanted and there is one.
        how = self._settings.optimize
        if how == "off" or (how == "script" and plan.format == TORCHSCRIPT):
            return predictor
        rows = (1, 2, self._settings.max_batch_size) if predictor.can_batch else (1,)
        verdict = optimize(predictor, built.example_inputs, how, rows, self._settings.warm_up_timeout_s)
        facts = {"reason": verdict.reason} if verdict.reason else {"gain": round(verdict.gain, 2)}
        self._say("not_optimized" if verdict.reason else "optimized", how=how, **facts)
        return verdict.predictor

    def _try(self, plan: ReadPlan, built: Any, predictor: TorchPredictor, longer: object) -> Tried:
        settings, example, golden = self._settings, built.example_inputs, plan.manifest.golden
        known = [request.inputs for request in golden]
        patience_s = min(settings.warm_up_timeout_s / 2, _JOINED_S)
        versions = Versions(predictor.module)
        untouched = None if settings.stateful == "allow" else Untouched(built, predictor.module)
        examiner = Examiner(built, predictor, example, known, versions, settings.max_batch_size, patience_s, untouched)
        validate = getattr(built, "validate", None)
        candidate = Candidate(predictor, example, golden, validate, longer, examiner.examine, examiner.find_writes)
        tried = warm_up(candidate, settings.warm_up_sizes, settings.warm_up_timeout_s)
        if tried.examined.written and settings.stateful == "refuse":
            said = "expected weights that stay as they were published, found them changed by answering"
            hint = 'set stateful = "allow" where that is meant'
            raise CheckpointError("stateful", f"{', '.join(tried.examined.written)}: {said}", hint)
        return tried


class Examined(NamedTuple):
    """What was found: why requests share no run, what they leave on objects, which tensors answering has changed."""

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
    untouched: Untouched | None = None

    def find_writes(self) -> None:
        """Find what it writes into, before anything else is asked of it."""
        self.predictor.memory.find(self.predictor, (self.example, *self.known, *vary_inputs(self.example)))

    def examine(self) -> Examined:
        """Examine it. Raises `CheckpointError`: a request is answered with what another one has left behind."""
        recent = Versions(self.predictor.module)
        self.predictor.predict(self.example)
        written = tuple(sorted({*self.versions.written(), *recent.touched()}))
        kept = () if written else self._require_apart()  # where its weights change, answers do, whoever else asks
        alone_because = "batchable is False"
        if getattr(self.servable, "batchable", True):
            others = (prepared for _, prepared in self._others())
            example = self.predictor.prepare(self.example)
            # How long a run takes may depend on its numbers; that is no reason to refuse the model.
            try:
                run = functools.partial(why_alone, self.predictor, example, others, self.most_rows)
                alone_because = limit(run, self.patience_s)
            except CheckpointError as error:
                alone_because = f"the trial of joined requests: {error.message}"
        return Examined(alone_because, kept, written, self.versions)

    def _require_apart(self) -> tuple[str, ...]:
        """Refuse a model that mixes requests, and name what they leave behind in one that does not."""
        answer, other = self.predictor.predict(self.example), self.example
        for inputs, prepared in self._others():  # one that is answered otherwise than the example, where there is any
            with contextlib.suppress(Exception):  # inputs that the model has nothing for
                raw = self.predictor.postprocess(self.predictor.run(prepared))
                other = inputs
                if raw != answer:
                    break
        self.predictor.predict(self.example)
        module, names = self.predictor.module, set()
        before = snapshot(self.servable, module)
        for inputs in (other, self.example):
            self.predictor.predict(inputs)
            after = snapshot(self.servable, module)
            names |= set(changed(before, after))
            before = after
        difference = ""
        for _ in range(_TRIES):
            try:
                difference = find_mixing(self.predictor, self.example, other)
            except Exception as error:  # the user's code, which may fail of what it finds
                difference = f": {type(error).__name__}: {error}"
            if not difference:
                break
        if not difference and self.untouched is not None:
            with contextlib.suppress(Exception):  # as above, of what was set back
                form = describe(self.example)
                alike = (one for one, _ in self._others() if one != self.example and describe(one) == form)
                difference, named = self.untouched.find_dependence(self.predictor, self.example, next(alike, other))
                names |= set(named if difference else ())
        if difference:
            said = f"a request is answered with what another one left on {', '.join(sorted(names)) or 'the model'}"
            hint = "hand it on in what inputs_to_tensors() and run_module() return"
            raise CheckpointError("state", f"{said}: outputs{difference}", hint)
        if sets_seed(self.predictor, self.example):
            names.add("torch.manual_seed")
        return tuple(sorted(names))

    def _others(self) -> Iterator[tuple[object, Any]]:
        for inputs in (*self.known, *vary_inputs(self.example)):
            prepared = None
            with contextlib.suppress(Exception):  # inputs that the model class refuses
                prepared = self.predictor.prepare(inputs)
            if prepared is not None:
                yield inputs, prepared


_RUNS = 10
_LEAST_GAIN = 1.03  # a gain that is smaller than this may be chance


class Verdict(NamedTuple):
    """What came of a quicker form: how many times as fast it is, or the reason why the module itself is served."""

    predictor: TorchPredictor
    gain: float = 1.0
    reason: str = ""


def optimize(predictor: TorchPredictor, example: object, how: str, rows: Sequence[int], timeout_s: float) -> Verdict:
    """Try a quicker form of a predictor's module; batches of so many times the example's rows decide."""
    try:
        return limit(lambda: _try(predictor, example, how, rows), timeout_s)
    except Exception as error:  # scripting and compiling run the model's code, a compiler, and more
        said = error.message if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
        return Verdict(predictor, reason=(said.strip().splitlines() or [""])[0][:300])


def _try(predictor: TorchPredictor, example: object, how: str, rows: Sequence[int]) -> Verdict:
    if how == "script":
        module = torch.jit.script(predictor.module)
    elif hasattr(torch, "compile"):
        # Batches have any number of rows; without this each number would be compiled for when it first comes.
        module = torch.compile(predictor.module, dynamic=True)
    else:
        raise RuntimeError(f"torch {torch.__version__} cannot compile; 2.0 and later can")
    quicker = replace(predictor, module=module)
    prepared = predictor.prepare(example)
    batches = [predictor.stack([prepared] * count) if count > 1 else prepared for count in rows]
    for batch in batches:
        expected, found = (as_json(one.postprocess(one.run(batch))) for one in (predictor, quicker))
        difference = first_difference(expected, found)
        if difference:
            return Verdict(predictor, reason=f"it answers differently: outputs{difference}")
    gain = min(_measure_gain(predictor, quicker, batch) for batch in batches)
    if gain < _LEAST_GAIN:
        return Verdict(predictor, reason=f"it is not faster: {gain:.2f} times as fast")
    return Verdict(quicker, gain)


def _measure_gain(one: TorchPredictor, other: TorchPredictor, batch: Any) -> float:
    """Compare the shortest of some runs, taken in turn, so that what else the machine does hits both."""
    shortest_s = [float("inf"), float("inf")]
    for _ in range(_RUNS):
        for place, predictor in enumerate((one, other)):
            began_s = time.perf_counter()
            predictor.run(batch)
            shortest_s[place] = min(shortest_s[place], time.perf_counter() - began_s)
    return shortest_s[0] / shortest_s[1]
