"""Credentials of requests: put in just before a request leaves, never shown, never written.

They come from the URL itself (where `${NAME}` is an environment variable), from `RATTLER_AUTH_FILE`, or from netrc.
Source: for the file, rattler's `FileStorage`: host, or `*.domain`, to BearerToken, BasicHTTP or CondaToken; for the
token in the path, conda's channel URLs `https://host/t/<token>/channel`.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from envtool.errors import EnvtoolError
from envtool.fetch import url_credentials

AUTH_FILE_VARIABLE = "RATTLER_AUTH_FILE"
_NETRC_FILES = ("~/.netrc", "~/_netrc")
_TOKEN = re.compile(r"/t/[^/\s]+(?=/|$)")
_USER_INFO = re.compile(r"(?<=://)[^/@\s\"']+@")


@dataclass(frozen=True)
class Authorized:
    """A request that may leave."""

    url: str
    bearer: str | None = None
    basic: tuple[str, str] | None = None


def without_credentials(url: str) -> str:
    """The URL as it may be shown or written: without user name, password, token and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], _TOKEN.sub("/t/***", parts.path), "", ""))


def without_secrets(text: str) -> str:
    """A text that may hold URLs, as it may be shown."""
    return _TOKEN.sub("/t/***", _USER_INFO.sub("***@", text))


def authorize(url: str) -> Authorized:
    """Put into a request what its host asks for.

    Raises:
        EnvtoolError: a variable that the URL names is not set, or the file of credentials cannot be used.
    """
    expanded = url_credentials.expand(url)
    parts = urlsplit(expanded)
    if parts.username or parts.scheme == "file":
        return Authorized(expanded)
    entry = _entry(parts.hostname or "")
    if "BearerToken" in entry:
        return Authorized(expanded, bearer=entry["BearerToken"])
    if "BasicHTTP" in entry:
        return Authorized(expanded, basic=(entry["BasicHTTP"]["username"], entry["BasicHTTP"]["password"]))
    if "CondaToken" in entry and not parts.path.startswith("/t/"):
        return Authorized(urlunsplit(parts._replace(path=f"/t/{entry['CondaToken']}{parts.path}")))
    return Authorized(expanded)


def header_of(request: Authorized) -> str | None:
    """The Authorization header of a request, None where it needs none."""
    if request.bearer:
        return f"Bearer {request.bearer}"
    return _basic(*request.basic) if request.basic else from_netrc(request.url) or from_user(request.url)


def from_netrc(url: str) -> str | None:
    """The Authorization header that netrc has for a host; one that cannot be read is as good as none."""
    place = os.environ.get("NETRC")
    paths = (Path(name).expanduser() for name in ([place] if place is not None else _NETRC_FILES))
    path = next(filter(Path.exists, paths), None)
    host = urlsplit(url).hostname
    if path is None or host is None:
        return None
    from netrc import NetrcParseError, netrc  # few machines have one

    try:
        login, account, password = netrc(str(path)).authenticators(host) or (None, None, None)
    except (NetrcParseError, OSError):
        return None
    return _basic(login or account or "", password or "") if login or account or password else None


def from_user(url: str) -> str | None:
    """The Authorization header for the user and the password that a URL holds; a token may be the user alone."""
    parts = urlsplit(url)
    if not parts.username and parts.password is None:
        return None
    user, password = (unquote(text or "", errors="surrogateescape") for text in (parts.username, parts.password))
    return _basic(user, password)


def _basic(user: str, password: str) -> str:
    # Source: RFC 7617, section 2.1; bytes that are no UTF-8 go as they were given.
    return "Basic " + base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape")).decode()


def _entry(host: str) -> Mapping[str, Any]:
    place = os.environ.get(AUTH_FILE_VARIABLE)
    if not place or not host:
        return {}
    try:
        content = json.loads(Path(place).expanduser().read_text(encoding="utf-8"))
        labels = host.split(".")
        names = [host, *("*." + ".".join(labels[i:]) for i in range(len(labels)))]
        entry: Any = next((content[name] for name in names if name in content), {})
        if not isinstance(content, dict) or not isinstance(entry, dict):
            raise TypeError
        return entry
    except (OSError, ValueError, TypeError) as error:
        # The content is never part of the message.
        reason = error.strerror if isinstance(error, OSError) else "it is not a JSON object of host to credentials"
        raise EnvtoolError(f"{AUTH_FILE_VARIABLE}={place} cannot be used: {reason}") from None
