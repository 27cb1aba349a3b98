"""Credentials in URLs: written as variables (`https://$USER:$TOKEN@host/`), put in when a URL is used, never in a lock.

Out of scope: where credentials are kept otherwise; netrc and `RATTLER_AUTH_FILE` need no URL at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlsplit, urlunsplit

from envtool.errors import EnvtoolError
from envtool.masking import hide

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
    """The URL with the values of its variables.

    A value counts as it is, whatever bytes it has: in the user, the password, the token or the query it is
    percent-encoded, in the path too but for its slashes; scheme, host and port are taken as they are. Source: RFC 3986,
    section 2.1.
    """
    values = os.environ if environ is None else environ
    missing = missing_variables(url, values)
    if missing:
        raise EnvtoolError(
            f"{strip(url)} needs the variable {', '.join(missing)}, which is not set",
            "set it where envtool runs; its value is never written down",
        )
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
    """The URL of a file with the variables that a lock names for its place.

    Args:
        templates: URLs of channels and indexes as a lock has them: `https://$USER:$TOKEN@host/channel`.
    """
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
