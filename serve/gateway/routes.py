"""The table of routes, with patterns as Flask writes them, of which every server that carries them makes its own."""

from __future__ import annotations

from typing import Any, Union

from serve.gateway import admin, health, monitoring, oip_repository, openapi
from serve.http.messages import Response, Route
from serve.inference.prediction import Prediction, Registry
from serve.protocols import oip, tfserving, torchserve
from serve.protocols.native import predict

Handled = Union[Response, Prediction]
PredictionRoute = Route[Registry, Handled]
AnyRoute = Route[Any, Handled]

PREDICTION_ROUTES: tuple[PredictionRoute, ...] = (
    Route("POST", "/predict", predict, "native"),
    Route("POST", "/predict/<name>", predict, "native"),
    Route("POST", "/predict/<name>/<version>", predict, "native"),
    Route("POST", "/v2/models/<name>/infer", oip.infer, "v2"),
    Route("POST", "/v2/models/<name>/versions/<version>/infer", oip.infer, "v2"),
    Route("POST", "/v1/models/<name>:predict", tfserving.predict, "tfserving"),
    Route("POST", "/v1/models/<name>/versions/<version>:predict", tfserving.predict, "tfserving"),
    Route("POST", "/v1/models/<name>/labels/<label>:predict", tfserving.predict, "tfserving"),
    Route("POST", "/predictions/<name>", torchserve.predictions, "torchserve"),
    Route("POST", "/predictions/<name>/<version>", torchserve.predictions, "torchserve"),
    Route("PUT", "/predictions/<name>", torchserve.predictions, "torchserve"),
    Route("PUT", "/predictions/<name>/<version>", torchserve.predictions, "torchserve"),
)


ROUTES: tuple[AnyRoute, ...] = (
    *PREDICTION_ROUTES,
    Route("GET", "/livez", health.livez),
    Route("GET", "/healthz", health.livez),
    Route("GET", "/readyz", health.readyz),
    Route("GET", "/model", health.model),
    Route("GET", "/model/<name>", health.model),
    Route("GET", "/openapi.json", openapi.handler(lambda: ROUTES)),
    Route("GET", "/metrics", monitoring.metrics),
    Route("GET", "/", monitoring.page),
    Route("GET", "/page/<file>", monitoring.asset),
    Route("GET", "/status.json", monitoring.status_json),
    Route("GET", "/admin", admin.check_token),
    Route("POST", "/admin/models/<name>/<action>", admin.order),
    Route("GET", "/v2/health/live", health.livez),
    Route("GET", "/v2/health/ready", health.readyz),
    Route("GET", "/v2/models/stats", oip_repository.statistics),
    Route("GET", "/v2/models/<name>/stats", oip_repository.statistics),
    Route("GET", "/v2/models/<name>/versions/<version>/stats", oip_repository.statistics),
    Route("POST", "/v2/repository/index", oip_repository.index),
    Route("POST", "/v2/repository/models/<name>/load", oip_repository.load),
    Route("POST", "/v2/repository/models/<name>/unload", oip_repository.unload),
    Route("GET", "/v2", oip.server_metadata),
    Route("GET", "/v2/", oip.server_metadata),
    Route("GET", "/v2/models/<name>", oip.model_metadata),
    Route("GET", "/v2/models/<name>/versions/<version>", oip.model_metadata),
    Route("GET", "/v2/models/<name>/ready", oip.model_ready),
    Route("GET", "/v2/models/<name>/versions/<version>/ready", oip.model_ready),
    Route("GET", "/v2/models/<name>/config", oip.model_config),
    Route("GET", "/v2/models/<name>/versions/<version>/config", oip.model_config),
    Route("GET", "/v1/models", tfserving.models),
    Route("GET", "/v1/models/<name>", tfserving.status),
    Route("GET", "/v1/models/<name>/versions/<version>", tfserving.status),
    Route("GET", "/v1/models/<name>/labels/<label>", tfserving.status),
    Route("GET", "/v1/models/<name>/metadata", tfserving.metadata),
    Route("GET", "/v1/models/<name>/versions/<version>/metadata", tfserving.metadata),
    Route("GET", "/ping", torchserve.ping),
    Route("GET", "/models", torchserve.models),
    Route("GET", "/models/<name>", torchserve.model),
    Route("GET", "/models/<name>/all", torchserve.versions),
    Route("GET", "/models/<name>/<version>", torchserve.model),
)
