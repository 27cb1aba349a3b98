"""The statistics extension of the Open Inference Protocol (V2).

Counted is what all workers have answered since the server started, under whatever protocol and version: a series of its
own for every version would be kept for ever. The version that is named is the one that is live. Times are sums of the
metrics that Prometheus reads, so they lag by up to a second.

Source: Triton's statistics extension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve.errors import NotServedError
from serve.http.messages import Request, Response, fail, succeed
from serve.inference.model_selector import find
from serve.metrics.totals import Tally

if TYPE_CHECKING:
    from serve.gateway.server import Server
    from serve.inference.model import Model

_NS = 1_000_000_000


def statistics(server: Server, request: Request) -> Response:
    """Tell how many predictions a model, or every model, has answered, and how long they took."""
    try:
        models = [find(server, request).model] if "name" in request.place else list(server.models.values())
    except NotServedError as error:
        return fail(404, error.message)
    tallies = server.telemetry.worker_metrics.tallies()
    return succeed({"model_stats": [_describe(model, tallies.get(model.name, Tally())) for model in models]})


def _describe(model: Model, tally: Tally) -> dict[str, object]:
    live = model.stable.slot.live
    answered = tally.requests - tally.failures
    return {
        "name": model.name,
        "version": live.provenance.version if live else "",
        "inference_count": int(tally.rows) or answered,
        "execution_count": tally.batches or answered,
        "inference_stats": {
            "success": {"count": answered, "ns": int(tally.seconds * _NS)},
            "fail": {"count": tally.failures, "ns": 0},
            "queue": {"count": tally.requests, "ns": int(tally.queue_seconds * _NS)},
        },
    }
