"""The models of one worker, the choice of what answers a request, and predictions in three steps.

A model has what answers by default, `stable`, and may have a `canary`, which answers a part of the requests, and a
`shadow`, whose answers are only compared. Each label is a model instance with its own watch, store and slot.

`ask` understands the request and takes a lease on one generation; `Prediction.run` runs the module, alone or, by
whoever batches, together with others of the same generation; `Prediction.answer` writes the response and ends the
lease. A protocol states only how bytes become inputs and how what the module gave becomes bytes."""

from __future__ import annotations

import abc
import contextlib
import hashlib
import math
import random
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from serve.errors import HeldError, InputError, NotLiveError, NotServedError, RequestError, excerpt
from serve.http.messages import Request, Response, fail, not_live
from serve.inference.inspection import Remade, inspect, inspect_written
from serve.inference.rollout import Asked, Shadow
from serve.settings.settings import CANARY, SHADOW, STABLE, ServerSettings

if TYPE_CHECKING:
    from serve.checkpoint.provenance import Provenance
    from serve.inference.body_layout import BodyLayout
    from serve.inference.model_instance import ModelInstance
    from serve.model.slot import Generation
    from serve.model.torch_predictor import TorchPredictor

Prepare = Callable[["TorchPredictor"], Any]
AT_LEAST = "x-model-at-least"  # the oldest generation that a client takes; one number for all hosts of a fleet
RETRIED = "X-Model-Retried"  # which generation was asked first, and what was wrong with its answer


class Dialect(abc.ABC):
    """How one protocol reads one request and writes its response."""

    def __init__(self, request: Request, limit_bytes: int) -> None:
        self._request, self._limit_bytes = request, limit_bytes

    @abc.abstractmethod
    def read(self, predictor: TorchPredictor) -> Prepare:
        """Understand the request; return what turns its inputs into what a module takes. Raises `RequestError`."""

    @abc.abstractmethod
    def write(self, predictor: TorchPredictor, raw: Any, provenance: Provenance) -> Response:
        """Write the response, to which provenance headers are added; raises `ValueError` where it cannot be."""

    def refuse(self, status: int, message: str, predictor: TorchPredictor) -> Response:
        """Write what is wrong with the request."""
        return fail(status, message)

    def layout(self, predictor: TorchPredictor) -> BodyLayout | None:
        """Describe how requests differ that are read as this one, which was read; `None` where they may in anything."""
        return None


class Prediction(NamedTuple):
    """A request that was understood. Exactly one of `answer` and `end` must be called in the end."""

    instance: ModelInstance
    generation: Generation
    prepared: Any
    dialect: Dialect
    prepare: Prepare
    shadow: ModelInstance | None
    server: Registry

    def run(self) -> Any:
        """Run the module for this request alone."""
        return self.generation.predictor.run(self.prepared)

    def answer(self, raw: Any) -> Response:
        """Write the response and end the lease."""
        predictor, provenance = self.generation.predictor, self.generation.provenance
        try:
            if isinstance(raw, Remade):
                return self._pass_on(raw)
            try:
                answer = self.dialect.write(predictor, raw, provenance)
                has_passed = answer.headers.get("Content-Type") == "application/json"
            except ValueError as error:
                answer = self.dialect.refuse(422, f"the outputs for these inputs: {error}", predictor)
                has_passed = False
            if not has_passed and isinstance(again := inspect_written(self, raw), Remade):
                return self._pass_on(again)
            if self.shadow is not None and answer.status == 200:
                self._show(self.shadow, raw)
            recorder = self.instance.recorder
            if recorder is not None and answer.status == 200 and recorder.is_due():
                with contextlib.suppress(Exception):  # outputs that no JSON can hold; the request is answered
                    recorder.offer(self.prepare, predictor.postprocess(raw), provenance)
        finally:
            self.end()
        return with_provenance(answer, provenance)

    def _pass_on(self, remade: Remade) -> Response:
        """Have another generation answer what it has made."""
        answer = self._replace(instance=remade.instance, generation=remade.generation, shadow=None).answer(remade.raw)
        reason = f"generation={self.generation.provenance.generation}; {remade.signal}"
        return answer._replace(headers={**answer.headers, RETRIED: reason})

    def _show(self, shadow: ModelInstance, raw: Any) -> None:
        answered = self.generation.provenance.generation
        number = 0 if shadow.settings.label == SHADOW else answered
        if not self.server.shadow.has_room(shadow, number):
            return
        # Now, while the generation is leased and its weights are there.
        try:
            outputs = self.generation.predictor.postprocess(raw)
        except Exception:  # outputs that no JSON can hold; the request is answered, and nothing may fail it any more
            return
        self.server.shadow.offer(Asked(shadow, self.prepare, outputs, self.instance, number, answered))

    def end(self) -> None:
        """End the lease without a response; for a module that failed."""
        self.instance.slot.release(self.generation)


def ask(server: Registry, request: Request, spoken: type[Dialect]) -> Response | Prediction:
    """Take a lease on what is to answer a request, or answer one that cannot be; raises `HeldError`: ask again."""
    spec, dialect = spec_of(request), spoken(request, server.settings.max_body_bytes)
    try:
        model = server.find(spec.name)
        instance = model.choose(spec)
    except NotServedError as error:
        return fail(404, error.message)
    try:
        generation = _acquire(instance, request)
    except HeldError:
        raise
    except NotLiveError:
        return not_live(instance.reloader.status.verdict)
    except ValueError as error:
        return fail(400, str(error))
    try:
        prepare = dialect.read(generation.predictor)
        prepared = prepare(generation.predictor)
    except (RequestError, InputError) as error:
        instance.slot.release(generation)  # its weights may go; what a refusal states of the inputs stays
        status, headers = (error.status, error.headers) if isinstance(error, RequestError) else (422, {})
        refused = dialect.refuse(status, error.message, generation.predictor)
        return with_provenance(refused._replace(headers={**refused.headers, **headers}), generation.provenance)
    except BaseException:
        instance.slot.release(generation)
        raise
    return Prediction(instance, generation, prepared, dialect, prepare, model.compare_with(instance), server)


def _acquire(instance: ModelInstance, request: Request) -> Generation:
    generation, stated = instance.slot.acquire(), request.headers.get(AT_LEAST)
    if stated is None:
        return generation
    is_number, number = stated.isascii() and stated.isdigit(), generation.provenance.generation
    if is_number and int(stated) <= number:
        return generation
    instance.slot.release(generation)
    if not is_number:
        raise ValueError(f"X-Model-At-Least: expected the number of a generation, found {excerpt(stated)}")
    raise HeldError(f"expected generation {stated} or newer, found {number}")


def complete(found: Response | Prediction, deadline_s: float | None = None) -> Response:
    """Bring a request to its end in this thread; the answer is wanted until `deadline_s` on the monotonic clock."""
    if isinstance(found, Response):
        return found
    raw: Any
    began_s = time.monotonic()
    try:
        raw = found.run()
    except Exception as error:  # the module's code may raise anything
        raw = error
    except BaseException:
        found.end()
        raise
    seconds, predictor = time.monotonic() - began_s, found.generation.predictor
    rows = predictor.count_rows(found.prepared) if predictor.can_batch else 1
    (raw,) = inspect([found], [raw], rows, seconds, [math.inf if deadline_s is None else deadline_s])
    if isinstance(raw, Exception):
        found.end()
        raise raw
    return found.answer(raw)


def with_provenance(answer: Response, provenance: Provenance) -> Response:
    """Add the headers that name the model."""
    return Response(answer.status, {**answer.headers, **provenance.headers}, answer.body)


class Registry:
    """The models of one worker; making it starts nothing and imports no torch."""

    def __init__(self, settings: ServerSettings, models: Mapping[str, Model]) -> None:
        self.settings, self.models = settings, models
        self.shadow = Shadow()

    @property
    def instances(self) -> Iterator[ModelInstance]:
        """All labels of all models."""
        return (instance for model in self.models.values() for instance in model.labels.values())

    def find(self, name: str | None) -> Model:
        """Find a model. Raises `NotServedError`: there is no such model, or none was named and there are several."""
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name is None or name not in self.models:
            raise NotServedError(f"model: expected {' or '.join(self.models)}, found {name or 'none'}")
        return self.models[name]


_KEY = "x-canary-key"
_COMPARED_SHARE = 0.5  # of a canary's answers, where its rule wants them compared with those of the stable label


class ModelSpec(NamedTuple):
    """What a request asks for, `None` for anything; what has one `key` always gets the same side of a canary."""

    name: str | None = None
    version: str | None = None
    label: str | None = None
    key: str | None = None


def spec_of(request: Request) -> ModelSpec:
    """Read from path and headers which model is meant."""
    label = request.place.get("label", request.headers.get("x-model-label"))
    return ModelSpec(request.place.get("name"), request.place.get("version"), label, request.headers.get(_KEY))


Draw = Callable[[], float]


class Model:
    """One model with its labels. `draw`: gives a number from 0 up to 1 that decides who answers."""

    def __init__(self, name: str, labels: Mapping[str, ModelInstance], draw: Draw = random.random) -> None:
        self.name, self.labels, self._draw, self._compared = name, labels, draw, 0.0
        canary = labels.get(CANARY)
        if canary is not None:
            canary.guard.elsewhere = labels[STABLE]
            self._compared = _COMPARED_SHARE if "agreement" in canary.settings.promote else 0.0

    @property
    def stable(self) -> ModelInstance:
        """What answers by default."""
        return self.labels[STABLE]

    def compare_with(self, instance: ModelInstance) -> ModelInstance | None:
        """Choose what is asked as well, this time, and compared with the answer of an instance; `None` for nothing."""
        if self._compared and instance.settings.label == CANARY:
            return self.stable if self._draw() < self._compared else None
        shadow = self.labels.get(SHADOW)
        return shadow if shadow is not None and self._draw() < shadow.settings.share else None

    @property
    def versions(self) -> dict[str, ModelInstance]:
        """What can be asked for by its version: those that are live, but not the shadow."""
        instances = [self.labels[label] for label in (CANARY, STABLE) if label in self.labels]
        return {live.provenance.version: instance for instance in instances if (live := instance.slot.live) is not None}

    def choose(self, spec: ModelSpec) -> ModelInstance:
        """Choose who answers a request. Raises `NotServedError`: no such version or label is served."""
        if spec.label is not None:
            if spec.label not in self.labels or spec.label == SHADOW:
                known = ", ".join(label for label in self.labels if label != SHADOW)
                raise NotServedError(f"{self.name}: label: expected {known}, found {spec.label}")
            return self.labels[spec.label]
        if spec.version is not None:
            versions = self.versions
            if spec.version not in versions:
                known = ", ".join(versions) or "none, as nothing is live yet"
                raise NotServedError(f"{self.name}: version: expected {known}, found {spec.version}")
            return versions[spec.version]
        canary = self.labels.get(CANARY)
        if canary is not None:
            if spec.key is None:
                drawn = self._draw()
            else:  # the same key gets the same answer in every worker and after restarts
                digest = hashlib.blake2b(f"{self.name}:{spec.key}".encode(), digest_size=8).digest()
                drawn = int.from_bytes(digest, "big") / 2**64
            live = canary.slot.live if drawn < canary.settings.share else None
            if live is not None and canary.shared_state.ended != live.provenance.generation:
                return canary
        return self.stable


class Found(NamedTuple):
    """A model and the label of it that a request names."""

    model: Model
    instance: ModelInstance


def select(server: Registry, request: Request) -> Found:
    """Find what a request names; where it names neither version nor label, what answers by default."""
    spec = spec_of(request)
    model = server.find(spec.name)
    return Found(model, model.stable if spec.version is None and spec.label is None else model.choose(spec))


def describe_selected(server: Registry, request: Request, write: Callable[[Found, Generation], Response]) -> Response:
    """Answer what a model is: as `write` does, with provenance headers; 404 for another, 503 while nothing is live."""
    try:
        found = select(server, request)
    except NotServedError as error:
        return fail(404, error.message)
    live = found.instance.slot.live
    if live is None:
        return not_live(found.instance.reloader.status.verdict)
    return with_provenance(write(found, live), live.provenance)
