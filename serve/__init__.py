"""Serve a PyTorch model under Flask and gunicorn, and replace it while requests flow.

A trainer publishes a checkpoint and, last of all, its marker (`<checkpoint>.done`). In every worker a reloader notices
the marker, copies the checkpoint into a read-only store, proves it there, and swaps it in by one assignment.

Importing this package imports neither torch nor Flask. Training, scaling over machines and choosing which requests go
to which model are out of scope."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve.inference.hot_model import HotModel
    from serve.publishing.publish import publish

__all__ = ["HotModel", "publish"]
_PUBLIC = {"HotModel": "serve.inference.hot_model", "publish": "serve.publishing.publish"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
