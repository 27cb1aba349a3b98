"""The installed distribution, of which this is a part."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.lru_cache(maxsize=1)
def version() -> str:
    """Return the version of the installed distribution."""
    try:
        return importlib.metadata.version("envserve")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a checkout that was never installed
