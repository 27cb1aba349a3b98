"""The right of pages of other origins to read answers in a browser (the Fetch standard's CORS protocol)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

ANY = "*"
_PREFLIGHT_AGE_S = 600


class Origins:
    """The origins that the setting `cors_origins` allows.

    Args:
        allowed: `https://example.org`, for example; `*` allows all.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = frozenset(allowed)

    def headers(self, origin: str | None) -> dict[str, str]:
        """Return the headers of every answer to a page of an origin; `None` where the request names no origin."""
        if ANY in self._allowed:
            return {"Access-Control-Allow-Origin": ANY, "Access-Control-Expose-Headers": ANY}
        if origin not in self._allowed:
            return {"Vary": "Origin"}
        return {"Access-Control-Allow-Origin": str(origin), "Access-Control-Expose-Headers": ANY, "Vary": "Origin"}

    def preflight(self, asked: Mapping[str, str], methods: str) -> dict[str, str]:
        """Return the headers of the answer to a browser that asks whether it may send a request."""
        found = self.headers(asked.get("origin"))
        if "access-control-request-method" not in asked or "Access-Control-Allow-Origin" not in found:
            return found
        headers = asked.get("access-control-request-headers")
        return {
            **found,
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Max-Age": str(_PREFLIGHT_AGE_S),
            **({"Access-Control-Allow-Headers": headers} if headers else {}),
        }
