"""Directories of envtool, all moved by `ENVTOOL_HOME`; else the cache follows XDG, and environments are in
`~/.envtool`."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The directory that holds environments and configuration, `~/.envtool` by default."""
    override = os.environ.get("ENVTOOL_HOME")
    return Path(override).absolute() if override else Path.home() / ".envtool"


def cache() -> Path:
    """The directory of proven downloads, shared by every environment of the user."""
    override = os.environ.get("ENVTOOL_CACHE_DIR")
    if override:
        return Path(override).absolute()
    if os.environ.get("ENVTOOL_HOME"):
        return home() / "cache"
    import platformdirs  # not at the top: a bundle asks for `home` where nothing but Python is installed

    return Path(platformdirs.user_cache_dir("envtool"))


def repodata_cache() -> Path:
    """The directory in which the solver keeps the indexes of channels."""
    return cache() / "repodata"
