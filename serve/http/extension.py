"""The name under which a WSGI application carries its server, for whoever runs the application."""

from __future__ import annotations

from typing import Any

EXTENSION = "envserve"


def find_server(application: object) -> Any:
    """Return the server of an application; `None` for one that is not ours, or failed before it had one."""
    return getattr(application, "extensions", {}).get(EXTENSION)
