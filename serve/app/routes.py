"""The table of routes, of which every server that carries them makes its own.

Patterns are as Flask writes them; `<name>` is one part of a path.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Union

from serve.app import admin, openapi, sight, status, tfserving, torchserve, v2, v2_model, v2_repository, v2_statistics
from serve.app.asking import Prediction
from serve.app.exchange import Answer, Request
from serve.app.predict import predict
from serve.server import Server

Handler = Callable[[Server, Request], Union[Answer, Prediction]]


class Route(NamedTuple):
    """One path.

    Args:
        method: of the requests; `GET` means `HEAD` too.
        pattern: of the path.
        handle: answers, without knowing which server carries it.
    """

    method: str
    pattern: str
    handle: Handler


# What many requests a second go to.
PREDICTION_ROUTES = (
    Route("POST", "/predict", predict),
    Route("POST", "/predict/<name>", predict),
    Route("POST", "/predict/<name>/<version>", predict),
    Route("POST", "/v2/models/<name>/infer", v2.infer),
    Route("POST", "/v2/models/<name>/versions/<version>/infer", v2.infer),
    Route("POST", "/v1/models/<name>:predict", tfserving.predict),
    Route("POST", "/v1/models/<name>/versions/<version>:predict", tfserving.predict),
    Route("POST", "/v1/models/<name>/labels/<label>:predict", tfserving.predict),
    Route("POST", "/predictions/<name>", torchserve.predictions),
    Route("POST", "/predictions/<name>/<version>", torchserve.predictions),
    Route("PUT", "/predictions/<name>", torchserve.predictions),
    Route("PUT", "/predictions/<name>/<version>", torchserve.predictions),
)
_V2_ROUTES = (
    Route("GET", "/v2", v2_model.server_metadata),
    Route("GET", "/v2/", v2_model.server_metadata),
    Route("GET", "/v2/health/live", status.livez),
    Route("GET", "/v2/health/ready", status.readyz),
    Route("GET", "/v2/models/<name>", v2_model.model_metadata),
    Route("GET", "/v2/models/<name>/versions/<version>", v2_model.model_metadata),
    Route("GET", "/v2/models/<name>/ready", v2_model.model_ready),
    Route("GET", "/v2/models/<name>/versions/<version>/ready", v2_model.model_ready),
    Route("GET", "/v2/models/<name>/config", v2_model.model_config),
    Route("GET", "/v2/models/<name>/versions/<version>/config", v2_model.model_config),
    Route("GET", "/v2/models/stats", v2_statistics.statistics),
    Route("GET", "/v2/models/<name>/stats", v2_statistics.statistics),
    Route("GET", "/v2/models/<name>/versions/<version>/stats", v2_statistics.statistics),
    Route("POST", "/v2/repository/index", v2_repository.index),
    Route("POST", "/v2/repository/models/<name>/load", v2_repository.load),
    Route("POST", "/v2/repository/models/<name>/unload", v2_repository.unload),
)
_TENSORFLOW_SERVING_ROUTES = (
    Route("GET", "/v1/models", tfserving.models),
    Route("GET", "/v1/models/<name>", tfserving.status),
    Route("GET", "/v1/models/<name>/versions/<version>", tfserving.status),
    Route("GET", "/v1/models/<name>/labels/<label>", tfserving.status),
    Route("GET", "/v1/models/<name>/metadata", tfserving.metadata),
    Route("GET", "/v1/models/<name>/versions/<version>/metadata", tfserving.metadata),
)
_TORCHSERVE_ROUTES = (
    Route("GET", "/ping", torchserve.ping),
    Route("GET", "/models", torchserve.models),
    Route("GET", "/models/<name>", torchserve.model),
    Route("GET", "/models/<name>/all", torchserve.versions),
    Route("GET", "/models/<name>/<version>", torchserve.model),
)
ROUTES = (
    *PREDICTION_ROUTES,
    Route("GET", "/livez", status.livez),
    Route("GET", "/healthz", status.livez),
    Route("GET", "/readyz", status.readyz),
    Route("GET", "/model", status.model),
    Route("GET", "/model/<name>", status.model),
    Route("GET", "/openapi.json", openapi.openapi),
    Route("GET", "/metrics", sight.metrics),
    Route("GET", "/", sight.page),
    Route("GET", "/page/<file>", sight.asset),
    Route("GET", "/status.json", sight.status_json),
    Route("GET", "/admin", admin.check_token),
    Route("POST", "/admin/models/<name>/<action>", admin.order),
    *_V2_ROUTES,
    *_TENSORFLOW_SERVING_ROUTES,
    *_TORCHSERVE_ROUTES,
)
