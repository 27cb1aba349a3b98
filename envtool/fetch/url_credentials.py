"""Credentials in URLs: written as variables (`https://$USER:$TOKEN@host/`), put in when a URL is used, never in a lock.

Out of scope: where credentials are kept otherwise; netrc and `RATTLER_AUTH_FILE` need no URL at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from envtool.errors import EnvtoolError

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_TOKEN = re.compile(r"/t/[^/]+(?=/)")


def variables_of(url: str) -> tuple[str, ...]:
    """The names of the variables in a URL, in their order."""
    return tuple(braced or bare for braced, bare in _VARIABLE.findall(url))


def is_literal(url: str) -> bool:
    """Whether a URL holds a user, a password or a token that is no variable."""
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0] if "@" in parts.netloc else ""
    token = _TOKEN.search(parts.path)
    return bool(_VARIABLE.sub("", user).strip(":") or (token and _VARIABLE.sub("", token[0][3:])))


def expand(url: str, environ: Mapping[str, str] | None = None) -> str:
    """The URL with the values of its variables.

    Raises:
        EnvtoolError: A variable is not set.
    """
    values = os.environ if environ is None else environ
    missing = [name for name in variables_of(url) if not values.get(name)]
    if missing:
        raise EnvtoolError(
            f"{strip(url)} needs the variable {', '.join(missing)}, which is not set",
            "set it where envtool runs; its value is never written down",
        )
    return _VARIABLE.sub(lambda match: values[match[1] or match[2]], url)


def strip(url: str) -> str:
    """The URL without user, password, token, query and fragment: what may stand in a lock or a message."""
    parts = urlsplit(url)
    if not parts.netloc and parts.scheme != "file":
        return url
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], _TOKEN.sub("", parts.path, count=1), "", ""))
