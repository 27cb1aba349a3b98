"""A path and its handler, whatever the handler works with and whatever it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Generic, TypeVar

from serve.http.messages import Request

Context = TypeVar("Context", contravariant=True)
Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True, eq=False)
class Route(Generic[Context, Result]):
    """One path.

    Args:
        method: of the requests; `GET` means `HEAD` too.
        handle: answers, without knowing which server carries it.
        protocol: in which a prediction speaks, as the metrics name it; nothing for what is no prediction.
    """

    method: str
    pattern: str
    handle: Callable[[Context, Request], Result]
    protocol: str = ""
