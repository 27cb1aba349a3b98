"""The table of routes, of which every server that carries them makes its own.

Patterns are as Flask writes them; `<name>` is one part of a path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve.gateway import admin, health, monitoring, oip_repository, openapi
from serve.gateway.protocol_routes import DESCRIPTION_ROUTES, PREDICTION_ROUTES
from serve.http.route import Route

if TYPE_CHECKING:
    from serve.gateway.protocol_routes import Handled
    from serve.gateway.server import Server

    AnyRoute = Route[Server, Handled]

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
    *DESCRIPTION_ROUTES,
)
