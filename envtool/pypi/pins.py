"""The check of files against the hashes that requirements pin."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from envtool.fetch.archive_cache import Cache, Wanted, update_from
from envtool.spec import requirement_hashes


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
            if hashes := requirement_hashes.split(text)[1]:
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
        from envtool.artifacts.reachable_archives import SILENT  # most lines pin nothing
        from envtool.fetch.downloader import fetch

        wanted = Wanted(unquote(file["url"].rpartition("/")[2]), sha256, (file["url"],), file.get("size"))
        path = fetch([wanted], self._cache, SILENT)[wanted]
        for each in others:
            digest = hashlib.new(each.partition(":")[0], usedforsecurity=False)
            update_from(digest, path)
            if f"{digest.name}:{digest.hexdigest()}" == each:
                return True
        return False
