"""Credentials of downloads: put in just before a request leaves, never shown, never written into a lock. They come from
variables in the URL (`https://$USER:$TOKEN@host/`), from `RATTLER_AUTH_FILE` (source: rattler's `FileStorage`: host, or
`*.domain`, to BearerToken, BasicHTTP or CondaToken), or from netrc; a token may be in the path
(`https://host/t/<token>/channel`)."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from envtool.errors import EnvtoolError, hide

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_TOKEN = re.compile(r"/t/[^/]+(?=/)")
_SHORTEST_SECRET, _SHORTEST_NAME = 3, 8


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
    """The URL with the values of its variables, percent-encoded where they are in the user, the password, the token,
    the query or (but for slashes) the path; scheme, host and port are taken as they are. Source: RFC 3986, section
    2.1."""
    values = os.environ if environ is None else environ
    missing = missing_variables(url, values)
    if missing:
        message = f"{strip(url)} needs the variable {', '.join(missing)}, which is not set"
        raise EnvtoolError(message, "set it where envtool runs; its value is never written down")
    if not _VARIABLE.search(url):
        return url
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    token = _TOKEN.search(parts.path)
    start, end = token.span() if token else (0, 0)
    path = _put(parts.path[:start], values, "/") + _put(parts.path[start:end], values, "")
    path += _put(parts.path[end:], values, "/")
    name, colon, password = user.partition(":")
    # A short name beside a password is a word like any other, which masking would take out of whole answers.
    user = _put(name, values, "", _SHORTEST_NAME if colon else _SHORTEST_SECRET) + colon + _put(password, values, "")
    netloc = f"{user}{at}{_put(host, values, None)}"
    query = _put(parts.query, values, "")
    return urlunsplit((_put(parts.scheme, values, None), netloc, path, query, _put(parts.fragment, values, None)))


def missing_variables(url: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """The variables of a URL that are not set."""
    values = os.environ if environ is None else environ
    return [name for name in variables_of(url) if not values.get(name)]


def _put(text: str, values: Mapping[str, str], safe: str | None, shortest: int = _SHORTEST_SECRET) -> str:
    def value(match: re.Match[str]) -> str:
        plain = values[match[1] or match[2]]
        if safe is None:
            return plain
        quoted = quote(plain.encode("utf-8", "surrogateescape"), safe=safe)
        hide(each for each in (plain, quoted) if len(each) >= shortest)
        return quoted

    return _VARIABLE.sub(value, text)


def with_variables(url: str, templates: Sequence[str]) -> str:
    """A file's URL with the variables that a lock's channels and indexes have for its place (`https://$USER@host/`)."""
    for template in templates:
        ours, theirs = urlsplit(url), urlsplit(template)
        user, _, host = theirs.netloc.rpartition("@")
        if not variables_of(template) or (ours.scheme, ours.netloc) != (theirs.scheme, host):
            continue
        path = ours.path
        place = strip(template).rstrip("/") + "/"
        if _TOKEN.search(theirs.path) and url.startswith(place):
            path = theirs.path.rstrip("/") + "/" + url[len(place) :]
        elif not user:
            continue
        return urlunsplit(ours._replace(netloc=f"{user}@{host}" if user else host, path=path))
    return url


def strip(url: str) -> str:
    """The URL without user, password, token, query and fragment: the form for locks and messages."""
    parts = urlsplit(url)
    if not parts.netloc and parts.scheme != "file":
        return url
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], _TOKEN.sub("", parts.path, count=1), "", ""))


AUTH_FILE_VARIABLE = "RATTLER_AUTH_FILE"
_NETRC_FILES = ("~/.netrc", "~/_netrc")
_SHOWN_TOKEN = re.compile(r"/t/[^/\s]+(?=/|$)")
_USER_INFO = re.compile(r"(?<=://)[^/@\s\"']+@")


def without_credentials(url: str) -> str:
    """The URL as it may be shown or written: without user name, password, token and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], _SHOWN_TOKEN.sub("/t/***", parts.path), "", ""))


def without_secrets(text: str) -> str:
    """A text that may hold URLs, as it may be shown."""
    return _SHOWN_TOKEN.sub("/t/***", _USER_INFO.sub("***@", text))


def authorize(url: str) -> tuple[str, str | None]:
    """The URL and the Authorization header of a request. Raises EnvtoolError if a variable is not set."""
    expanded = expand(url)
    parts = urlsplit(expanded)
    entry = {} if parts.username or parts.scheme == "file" else _entry(parts.hostname or "")
    if "BearerToken" in entry:
        return expanded, f"Bearer {entry['BearerToken']}"
    if "BasicHTTP" in entry:
        return expanded, _basic(entry["BasicHTTP"]["username"], entry["BasicHTTP"]["password"])
    if "CondaToken" in entry and not parts.path.startswith("/t/"):
        expanded = urlunsplit(parts._replace(path=f"/t/{entry['CondaToken']}{parts.path}"))
    return expanded, from_netrc(expanded) or from_user(expanded)


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
