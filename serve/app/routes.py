"""The table of routes, of which every server that carries them makes its own.

Patterns are as Flask writes them; `<name>` is one part of a path.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Union

from serve.app import status
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
)
ROUTES = (
    *PREDICTION_ROUTES,
    Route("GET", "/livez", status.livez),
    Route("GET", "/healthz", status.livez),
    Route("GET", "/readyz", status.readyz),
    Route("GET", "/model", status.model),
    Route("GET", "/model/<name>", status.model),
)
