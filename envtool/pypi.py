"""Which package index this machine is set up for: uv's own variables first, then pip's variables and files.

uv does not read pip's configuration, but on most machines (and behind most mirrors) that is the one that was set up.
Source: pip documentation, "Configuration": files are read in the order global, user, site, PIP_CONFIG_FILE.
"""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path

_UV_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL")


def uv_environment() -> dict[str, str]:
    """The variables that make uv ask the index that pip would ask; empty when uv's own are set or none is."""
    if any(os.environ.get(name) for name in _UV_VARIABLES):
        return {}
    url = os.environ.get("PIP_INDEX_URL") or _configured("index-url")
    return {"UV_DEFAULT_INDEX": url} if url else {}


def _configured(key: str) -> str | None:
    value = None
    for path in _config_files():
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip itself complains about such a file; here it only has nothing to say
        for section in ("global", "install"):
            value = parser.get(section, key, fallback=value)
    return value


def _config_files() -> list[Path]:
    explicit = os.environ.get("PIP_CONFIG_FILE")
    if explicit == os.devnull:
        return []
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), Path.home() / ".pip" / "pip.conf"]
    files += [user / "pip" / "pip.conf", Path(sys.prefix) / "pip.conf"]
    return [*files, Path(explicit)] if explicit else files
