"""The routes of the Open Inference Protocol (V2) beside its predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve.gateway import health, oip_repository, oip_statistics
from serve.http.route import Route
from serve.protocols import oip_metadata

if TYPE_CHECKING:
    from serve.gateway.prediction_routes import Handled
    from serve.gateway.server import Server

    AnyRoute = Route[Server, Handled]

OIP_ROUTES: tuple[AnyRoute, ...] = (
    Route("GET", "/v2", oip_metadata.server_metadata),
    Route("GET", "/v2/", oip_metadata.server_metadata),
    Route("GET", "/v2/health/live", health.livez),
    Route("GET", "/v2/health/ready", health.readyz),
    Route("GET", "/v2/models/<name>", oip_metadata.model_metadata),
    Route("GET", "/v2/models/<name>/versions/<version>", oip_metadata.model_metadata),
    Route("GET", "/v2/models/<name>/ready", oip_metadata.model_ready),
    Route("GET", "/v2/models/<name>/versions/<version>/ready", oip_metadata.model_ready),
    Route("GET", "/v2/models/<name>/config", oip_metadata.model_config),
    Route("GET", "/v2/models/<name>/versions/<version>/config", oip_metadata.model_config),
    Route("GET", "/v2/models/stats", oip_statistics.statistics),
    Route("GET", "/v2/models/<name>/stats", oip_statistics.statistics),
    Route("GET", "/v2/models/<name>/versions/<version>/stats", oip_statistics.statistics),
    Route("POST", "/v2/repository/index", oip_repository.index),
    Route("POST", "/v2/repository/models/<name>/load", oip_repository.load),
    Route("POST", "/v2/repository/models/<name>/unload", oip_repository.unload),
)
