"""A path and its handler, and finding the route of a request by its path, where no framework does it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Generic, TypeVar

from serve.http.messages import Request

Context = TypeVar("Context", contravariant=True)
Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True, eq=False)
class Route(Generic[Context, Result]):
    """One path."""

    method: str  # of the requests; `GET` means `HEAD` too
    pattern: str
    handle: Callable[[Context, Request], Result]  # answers, without knowing which server carries it
    protocol: str = ""  # in which a prediction speaks, as the metrics name it; nothing for what is no prediction


_MOST_REMEMBERED_PATHS = 1000
Found = tuple[Route[Any, Any], Mapping[str, str]]


class Table:
    """Finds the route of a prediction by its path."""

    def __init__(self, routes: Sequence[Route[Any, Any]]) -> None:
        part = re.compile(r"<(\w+)>")
        self._routes = [(route, re.compile(part.sub(r"(?P<\1>[^/]+)", route.pattern))) for route in routes]
        self._remembered: dict[tuple[str, str], Found] = {}

    def find(self, method: str, path: str) -> Found | None:
        """Find a route, and the parts of the path that it names, by the decoded path without its query."""
        found = self._remembered.get((method, path))
        if found is None:
            fitting = ((route, pattern.fullmatch(path)) for route, pattern in self._routes if route.method == method)
            found = next(((route, fits.groupdict()) for route, fits in fitting if fits), None)
            if found is not None and len(self._remembered) < _MOST_REMEMBERED_PATHS:
                self._remembered[method, path] = found
        return found
