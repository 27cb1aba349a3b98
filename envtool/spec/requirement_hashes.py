"""Hashes that a requirement pins: `--hash=sha256:…`, repeatable, and `NAME @ URL#sha256=…`.

As with pip, a file has to match one hash of every line that names the distribution, constraints included. uv only notes
such hashes. Source: pip documentation, "Secure installs"; pip/_internal/models/link.py, `_SUPPORTED_HASHES`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urldefrag

if TYPE_CHECKING:  # most lines pin nothing
    from envtool.fetch.archive_cache import Cache

_OPTION = re.compile(r"""\s+--hash(?:=|\s+)(?P<quote>["']?)(?P<hash>[^\s"']+)(?P=quote)""")
_DIGITS = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}
_OF_OPTIONS = ("sha256", "sha384", "sha512")
_NO_HASHES = ("egg", "subdirectory")


def split(requirement: str) -> tuple[str, frozenset[str]]:
    """A requirement without its hashes, and the hashes as `sha256:<hex>`; what stands in a URL counts as well."""
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
            return f"{digits!r} is no {kind.lower()}: expected {_DIGITS[kind.lower()]} hexadecimal digits"
    return None


class Pins:
    """The hashes that some requirements pin.

    Args:
        requirements: the lines, constraints among them, by the normalized name of their distribution.
        cache: where a file goes of which the index does not say the pinned kind of hash.
        is_required: whether a file of which no hash is pinned is refused.
    """

    def __init__(self, requirements: Iterable[tuple[str, str]], cache: Cache, *, is_required: bool = False) -> None:
        self._cache = cache
        self._is_required = is_required
        self._by_name: dict[str, list[frozenset[str]]] = {}
        for name, text in requirements:
            if hashes := split(text)[1]:
                self._by_name.setdefault(name, []).append(hashes)

    def of(self, name: str) -> list[frozenset[str]]:
        """The hashes of each line that pins some for a distribution."""
        return self._by_name.get(name, [])

    def allow(self, name: str, file: Mapping[str, Any]) -> bool:
        """Whether a file of a pylock.toml is one of those pinned.

        Raises:
            NetworkError, HashMismatchError: It has to be had to be hashed, and cannot be.
        """
        pinned = self.of(name)
        if not pinned:
            return not self._is_required
        sha256 = file["hashes"]["sha256"]
        return all(f"sha256:{sha256}" in each or self._matches(each, file, sha256) for each in pinned)

    def _matches(self, hashes: frozenset[str], file: Mapping[str, Any], sha256: str) -> bool:
        others = [each for each in hashes if not each.startswith("sha256:")]
        if not others:
            return False
        from envtool.artifacts.reachable_archives import SILENT
        from envtool.fetch.archive_cache import Wanted, update_from
        from envtool.fetch.downloader import fetch

        wanted = Wanted(unquote(file["url"].rpartition("/")[2]), sha256, (file["url"],), file.get("size"))
        path = fetch([wanted], self._cache, SILENT)[wanted]
        for each in others:
            digest = hashlib.new(each.partition(":")[0], usedforsecurity=False)
            update_from(digest, path)
            if f"{digest.name}:{digest.hexdigest()}" == each:
                return True
        return False


def _url(requirement: str) -> str | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        url = Requirement(requirement).url
    except InvalidRequirement:
        return None
    return None if url is None or re.match(r"\w+\+", url) else url


def _fragment(url: str) -> Iterator[tuple[str, str]]:
    yield from ((kind.lower(), value) for kind, value in parse_qsl(urldefrag(url).fragment, keep_blank_values=True))
