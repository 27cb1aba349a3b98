"""The table of routes, of which every server that carries them makes its own.

Patterns are as Flask writes them; `<name>` is one part of a path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve.gateway import admin, health, monitoring, oip_repository, openapi
from serve.gateway.prediction_routes import PREDICTION_ROUTES
from serve.http.route import Route
from serve.protocols import oip, tfserving, torchserve

if TYPE_CHECKING:
    from serve.gateway.prediction_routes import Handled
    from serve.gateway.server import Server

    AnyRoute = Route[Server, Handled]

_OIP_ROUTES: tuple[AnyRoute, ...] = (
    Route("GET", "/v2", oip.server_metadata),
    Route("GET", "/v2/", oip.server_metadata),
    Route("GET", "/v2/health/live", health.livez),
    Route("GET", "/v2/health/ready", health.readyz),
    Route("GET", "/v2/models/<name>", oip.model_metadata),
    Route("GET", "/v2/models/<name>/versions/<version>", oip.model_metadata),
    Route("GET", "/v2/models/<name>/ready", oip.model_ready),
    Route("GET", "/v2/models/<name>/versions/<version>/ready", oip.model_ready),
    Route("GET", "/v2/models/<name>/config", oip.model_config),
    Route("GET", "/v2/models/<name>/versions/<version>/config", oip.model_config),
    Route("GET", "/v2/models/stats", oip_repository.statistics),
    Route("GET", "/v2/models/<name>/stats", oip_repository.statistics),
    Route("GET", "/v2/models/<name>/versions/<version>/stats", oip_repository.statistics),
    Route("POST", "/v2/repository/index", oip_repository.index),
    Route("POST", "/v2/repository/models/<name>/load", oip_repository.load),
    Route("POST", "/v2/repository/models/<name>/unload", oip_repository.unload),
)
_TENSORFLOW_SERVING_ROUTES: tuple[AnyRoute, ...] = (
    Route("GET", "/v1/models", tfserving.models),
    Route("GET", "/v1/models/<name>", tfserving.status),
    Route("GET", "/v1/models/<name>/versions/<version>", tfserving.status),
    Route("GET", "/v1/models/<name>/labels/<label>", tfserving.status),
    Route("GET", "/v1/models/<name>/metadata", tfserving.metadata),
    Route("GET", "/v1/models/<name>/versions/<version>/metadata", tfserving.metadata),
)
_TORCHSERVE_ROUTES: tuple[AnyRoute, ...] = (
    Route("GET", "/ping", torchserve.ping),
    Route("GET", "/models", torchserve.models),
    Route("GET", "/models/<name>", torchserve.model),
    Route("GET", "/models/<name>/all", torchserve.versions),
    Route("GET", "/models/<name>/<version>", torchserve.model),
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
    *_OIP_ROUTES,
    *_TENSORFLOW_SERVING_ROUTES,
    *_TORCHSERVE_ROUTES,
)
