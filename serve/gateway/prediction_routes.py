"""The routes of predictions, to which many requests a second go."""

from __future__ import annotations

from typing import Union

from serve.http.messages import Response
from serve.http.route import Route
from serve.inference.prediction import Prediction, Registry
from serve.protocols import oip, tfserving, torchserve
from serve.protocols.native import predict

Handled = Union[Response, Prediction]
PredictionRoute = Route[Registry, Handled]

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
