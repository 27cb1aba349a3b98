"""Predictions in three steps, the same for every protocol and every server.

`ask` understands the request and takes a lease on one generation; `Prediction.run` runs the module, alone or, by
whoever batches, together with others of the same generation; `Prediction.answer` writes the response and ends the
lease. A protocol states only how bytes become inputs and how what the module gave becomes bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Protocol

from serve.errors import InputError, NotLiveError, NotServedError, RequestError
from serve.http.messages import Request, Response, fail, not_live
from serve.inference.model import spec_of
from serve.inference.shadow import Asked
from serve.model.predictor import Predictor

if TYPE_CHECKING:
    from serve.checkpoint.provenance import Provenance
    from serve.inference.body_layout import BodyLayout
    from serve.inference.model_instance import ModelInstance
    from serve.inference.registry import Registry
    from serve.model.slot import Generation

Take = Callable[[Predictor], Any]


class Dialect(Protocol):
    """How one protocol reads requests and writes responses, for one request."""

    def read(self, request: Request, predictor: Predictor) -> Take:
        """Understand a request.

        Returns:
            What turns the inputs into what the module of a predictor takes; it may raise `InputError`.

        Raises:
            RequestError: it cannot be understood.
        """

    def write(self, predictor: Predictor, given: Any, provenance: Provenance) -> Response:
        """Write the response; provenance headers are added to it.

        Raises:
            ValueError: what was given cannot be written.
        """

    def refuse(self, status: int, message: str, predictor: Predictor) -> Response:
        """Write what is wrong with a request."""

    def layout(self, predictor: Predictor) -> BodyLayout | None:
        """Describe how requests differ that are read as this one, which was read; `None` where they may in anything."""


class Prediction(NamedTuple):
    """A request that was understood. Exactly one of `answer` and `end` must be called in the end."""

    instance: ModelInstance
    generation: Generation
    taken: Any
    dialect: Dialect
    again: Take
    shadow: ModelInstance | None
    server: Registry

    def run(self) -> Any:
        """Run the module for this request alone."""
        return self.generation.predictor.run(self.taken)

    def answer(self, given: Any) -> Response:
        """Write the response and end the lease."""
        predictor, provenance = self.generation.predictor, self.generation.provenance
        try:
            try:
                answer = self.dialect.write(predictor, given, provenance)
            except ValueError as error:
                answer = self.dialect.refuse(422, f"the outputs for these inputs: {error}", predictor)
            if self.shadow is not None and answer.status == 200:
                self._show(self.shadow, given)
        finally:
            self.end()
        return with_provenance(answer, provenance)

    def _show(self, shadow: ModelInstance, given: Any) -> None:
        # Now, while the generation is leased and its weights are there.
        try:
            outputs = self.generation.predictor.postprocess(given)
        except Exception:  # outputs that no JSON can hold; the request is answered, and nothing may fail it any more
            return
        self.server.shadow.offer(Asked(shadow, self.again, outputs))

    def end(self) -> None:
        """End the lease without a response; for a module that failed."""
        self.instance.slot.release(self.generation)


def ask(server: Registry, request: Request, dialect: Dialect) -> Response | Prediction:
    """Understand a request, and take a lease on the generation that is to answer it.

    Args:
        request: its path and headers name the model, its body has the inputs.

    Returns:
        What is left to do; or the answer to a request that cannot be understood, or that asks for what is not served.
    """
    spec = spec_of(request)
    try:
        model = server.find(spec.name)
        instance = model.choose(spec)
    except NotServedError as error:
        return fail(404, error.message)
    try:
        generation = instance.slot.acquire()
    except NotLiveError:
        return not_live(instance.reloader.status.verdict)
    try:
        again = dialect.read(request, generation.predictor)
        taken = again(generation.predictor)
    except (RequestError, InputError) as error:
        instance.slot.release(generation)  # its weights may go; what a refusal states of the inputs stays
        status, headers = (error.status, error.headers) if isinstance(error, RequestError) else (422, {})
        refused = dialect.refuse(status, error.message, generation.predictor)
        return with_provenance(refused._replace(headers={**refused.headers, **headers}), generation.provenance)
    except BaseException:
        instance.slot.release(generation)
        raise
    return Prediction(instance, generation, taken, dialect, again, model.shadow, server)


def complete(found: Response | Prediction) -> Response:
    """Bring a request to its end in this thread."""
    if isinstance(found, Response):
        return found
    try:
        given = found.run()
    except BaseException:
        found.end()
        raise
    return found.answer(given)


def with_provenance(answer: Response, provenance: Provenance) -> Response:
    """Add the headers that name the model."""
    return Response(answer.status, {**answer.headers, **provenance.headers}, answer.body)
