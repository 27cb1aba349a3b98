"""Everything that would go wrong with a model class, found out before any server runs."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.development.target import Target
from serve.errors import ModelError, ServeError
from serve.publishing.publish import publish

if TYPE_CHECKING:
    from serve.model.torch_predictor import TorchPredictor

OK, NOTE, PROBLEM = "ok", "note", "problem"
_TIMED_S, _MOST_TIMED = 0.5, 200


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: str  # `ok`, `note` for what its author may not know, `problem` for what keeps it from being served
    about: str  # the class, its example, weights, answers, batches, state, time, memory
    text: str
    hint: str | None = None


@dataclass
class Prepared:
    """A model class that can be built, with an example and weights of its own where none were given."""

    target: Target
    example: object  # inputs as a request has them
    weights: Path  # the file to publish
    findings: list[Finding]  # what was found out on the way


def prepare(target: Target, weights: Path | None, home: Path) -> Prepared:
    """Build a model class, and complete in `home`, which is empty, what its author left out; raises `ServeError`."""
    from serve.model import contract, example

    findings: list[Finding] = []
    settings = target.settings(home)
    constructor = contract.import_class(settings)
    built = contract.construct(settings, constructor)
    if not hasattr(built, "example_inputs"):
        module = contract.build_module(settings, built)
        form = example.guess(module)
        if form is None:
            names = ", ".join(f'"{name}": …' for name in example.required_parameters(module))
            raise ModelError(f"{settings.model}: what it takes cannot be guessed", f"give it by --example: {names}")
        text = json.dumps(form) if isinstance(form, dict) else form
        line = f"write it into the class: example_inputs = {_as_code(form)}"
        findings.append(Finding(NOTE, "example", f"guessed from its layers: {text}", line))
        target = replace(target, example=form)
        settings = target.settings(home)
    built = contract.build(settings, constructor)
    module = contract.build_module(settings, built)
    parameters, size_bytes = example.count_bytes(module)
    findings.insert(0, Finding(OK, "class", f"{settings.model}, {parameters:,} parameters"))
    findings.append(Finding(OK, "memory", f"{_size(size_bytes)} of weights; two sets for the moment of a swap"))
    if weights is None:
        weights = home / "initial.pt"
        example.save_weights(module, weights)
        findings.append(Finding(NOTE, "weights", "the class's initial ones, as none were given", "give --weights FILE"))
    return Prepared(target, built.example_inputs, weights, findings)


def _as_code(form: object) -> str:
    """Write a guessed example as a line of Python."""
    if isinstance(form, dict):
        return "{" + ", ".join(f'"{name}": {_as_code(part)}' for name, part in form.items()) + "}"
    dtype, _, shape = str(form).rstrip("]").partition("[")
    sizes = shape.split(", ")
    if dtype == "float32":
        return f"[[0.0] * {sizes[1]}]" if len(sizes) == 2 else f"torch.randn({shape}).tolist()"
    return f"[[0] * {sizes[1]}]"


def check(target: Target, weights: Path | None) -> list[Finding]:
    """Try a model class out as a server would; a problem comes last, as nothing after it could be tried."""
    with tempfile.TemporaryDirectory(prefix="envserve-check-") as place:
        findings: list[Finding] = []
        try:
            prepared = prepare(target, weights, Path(place))
            findings += prepared.findings
            findings += _try_out(prepared, Path(place))
        except ServeError as error:
            findings.append(Finding(PROBLEM, getattr(error, "code", "class"), error.message, error.hint))
        return findings


def _try_out(prepared: Prepared, home: Path) -> Iterator[Finding]:
    from serve.publishing.golden import load_own  # brings numpy

    said: dict[str, dict[str, object]] = {}
    settings = prepared.target.settings(home)
    published = publish(prepared.weights, home / "checkpoints")
    loaded = load_own(settings, Path(published.checkpoint), lambda event, **facts: said.update({event: facts}))
    predictor = loaded.predictor
    took = f"loaded in {_time(loaded.load_s)}, tried in {_time(loaded.warm_up_s)}"
    yield Finding(OK, "weights", ", ".join([published.format, took, *published.notes]))
    for name, form in predictor.interface.items():
        yield Finding(OK, name, form)
    alone = said.get("not_batched", {}).get("reason")
    joined = f"up to {settings.max_batch_size} rows share a run, and each answer is what it is alone"
    yield Finding(NOTE, "batches", f"each request runs alone: {alone}") if alone else Finding(OK, "batches", joined)
    kept = said.get("state_kept", {}).get("attributes")
    if kept:
        line = f"requests leave {kept} behind, so one runs at a time"
        yield Finding(NOTE, "state", line, "keep it in local variables")
    prepared_inputs = predictor.prepare(prepared.example)
    took = f"{_time(_median(predictor, prepared_inputs))} for one request"
    several = settings.max_batch_size // max(1, predictor.count_rows(prepared_inputs))
    if predictor.can_batch and several > 1:
        took += f", {_time(_median(predictor, predictor.stack([prepared_inputs] * several)))} for {several} in one run"
    yield Finding(OK, "time", took)


def _median(predictor: TorchPredictor, prepared: Any) -> float:
    """Return the median seconds of a run."""
    taken: list[float] = []
    end_s = time.monotonic() + _TIMED_S
    while not taken or (time.monotonic() < end_s and len(taken) < _MOST_TIMED):
        started_s = time.perf_counter()
        predictor.run(prepared)
        taken.append(time.perf_counter() - started_s)
    return statistics.median(taken)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _size(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.3g} GiB"
