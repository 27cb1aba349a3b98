"""Selection of the model that a request for information is about, without a lease."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, NamedTuple

from serve.errors import NotServedError
from serve.http.messages import Request, Response, fail, not_live
from serve.inference.model import Model, spec_of

if TYPE_CHECKING:
    from serve.inference.model_instance import ModelInstance
    from serve.inference.registry import Registry
    from serve.model.slot import Generation


class Found(NamedTuple):
    """A model and the label of it that a request names."""

    model: Model
    instance: ModelInstance


def find(server: Registry, request: Request) -> Found:
    """Find what a request names; where it names neither version nor label, what answers by default.

    Raises:
        NotServedError: there is no such model, version or label.
    """
    spec = spec_of(request)
    model = server.find(spec.name)
    return Found(model, model.stable if spec.version is None and spec.label is None else model.choose(spec))


def describe(server: Registry, request: Request, write: Callable[[Found, Generation], Response]) -> Response:
    """Answer a request for what a model is.

    Returns:
        What `write` returned, with provenance headers; 404 for what is not served, 503 while nothing is live.
    """
    try:
        found = find(server, request)
    except NotServedError as error:
        return fail(404, error.message)
    live = found.instance.slot.live
    if live is None:
        return not_live(found.instance.reloader.status.verdict)
    answer = write(found, live)
    return answer._replace(headers={**answer.headers, **live.provenance.headers})
