"""Hashes that a requirement pins: `--hash=sha256:…`, repeatable, and `NAME @ URL#sha256=…`.

As with pip, a file has to match one hash of every line that names the distribution, constraints included. uv only notes
such hashes. Source: pip documentation, "Secure installs"; pip/_internal/models/link.py, `_SUPPORTED_HASHES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urldefrag

_OPTION = re.compile(r"""\s+--hash(?:=|\s+)(?P<quote>["']?)(?P<hash>[^\s"']+)(?P=quote)""")
_DIGITS = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}
_OF_OPTIONS = ("sha256", "sha384", "sha512")
_NO_HASHES = ("egg", "subdirectory")


def split(requirement: str) -> tuple[str, frozenset[str]]:
    """A requirement without its hashes, and the hashes as `sha256:<hex>`; what is in a URL counts as well."""
    bare = _OPTION.sub("", requirement).strip()
    found = {match["hash"].lower() for match in _OPTION.finditer(requirement)}
    url = _url(bare)
    if url:
        found |= {f"{kind}:{digits}".lower() for kind, digits in _fragment(url) if kind in _DIGITS}
        bare = bare.replace(url, urldefrag(url).url, 1)
    return bare, frozenset(found)


def problem(requirement: str) -> str | None:
    """Why a hash of a requirement cannot be checked, or None when each can."""
    options = [match["hash"] for match in _OPTION.finditer(requirement)]
    url = _url(_OPTION.sub("", requirement).strip())
    in_url = [f"{kind}:{digits}" for kind, digits in _fragment(url or "") if kind not in _NO_HASHES]
    for text, kinds in [*((each, _OF_OPTIONS) for each in options), *((each, tuple(_DIGITS)) for each in in_url)]:
        kind, _, digits = text.partition(":")
        if kind.lower() not in kinds:
            return f"a hash of the kind {kind!r} cannot be checked; {', '.join(kinds)} can"
        if not re.fullmatch(rf"[0-9a-fA-F]{{{_DIGITS[kind.lower()]}}}", digits):
            return f"{digits!r} is not a valid {kind.lower()}: expected {_DIGITS[kind.lower()]} hexadecimal digits"
    return None


def _url(requirement: str) -> str | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        url = Requirement(requirement).url
    except InvalidRequirement:
        return None
    return None if url is None or re.match(r"\w+\+", url) else url


def _fragment(url: str) -> Iterator[tuple[str, str]]:
    yield from ((kind.lower(), value) for kind, value in parse_qsl(urldefrag(url).fragment, keep_blank_values=True))
