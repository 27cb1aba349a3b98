"""Mirrors: other places that have the bytes of a canonical URL.

A lock names canonical URLs only; where the bytes come from is a matter of the machine, and is configured there:
`[mirrors]` in `config.toml` under envtool's home, and the variable `ENVTOOL_MIRRORS`, which is looked at first.

    [mirrors]
    use = "auto"            # or the name of a preset, or several; `envtool mirror use` writes it
    origin = "last"         # or "never"
    "https://conda.anaconda.org/conda-forge/" = ["https://mirror.example.org/anaconda/cloud/conda-forge/"]

Out of scope: which mirror is quick, and what to do when one fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from envtool.errors import EnvtoolError, InvalidFileError, Issue
from envtool.mirrors import config_toml

VARIABLE = "ENVTOOL_MIRRORS"
_SCHEMES = ("http", "https", "file")
_WORDS = ("use", "origin")


@dataclass(frozen=True)
class Mirrors:
    """Which mirrors stand for which canonical URLs.

    Args:
        by_prefix: a canonical URL prefix to the mirror URLs that stand for it, the best first; all end with `/`.
        has_origin: whether the canonical URL itself may be asked where there is a mirror for it.
    """

    by_prefix: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    has_origin: bool = True

    def for_url(self, url: str) -> tuple[str, ...]:
        """Every URL that may have the bytes: the mirrors' in their order, the canonical one last or not at all."""
        prefix = _longest(each for each in self.by_prefix if url.startswith(each))
        if prefix is None:
            return (url,)
        mirrored = [mirror + url[len(prefix) :] for mirror in self.by_prefix[prefix]]
        if self.has_origin:
            return tuple(dict.fromkeys([*mirrored, url]))
        return tuple(each for each in dict.fromkeys(mirrored) if each != url) or (url,)

    def canonical(self, url: str) -> str:
        """The canonical URL of one that may be a mirror's; any other URL is returned as it is."""
        origins = {mirror: prefix for prefix, mirrors in self.by_prefix.items() for mirror in mirrors}
        mirror = _longest(each for each in origins if url.startswith(each))
        return url if mirror is None else origins[mirror] + url[len(mirror) :]


def configured() -> Mirrors:
    """The mirrors that this machine is set up for.

    Raises:
        InvalidFileError: config.toml is malformed; every issue is in it.
    """
    by_prefix = _from_variable(os.environ.get(VARIABLE, ""))
    table = _table()
    for prefix, mirrors in table.items():
        if prefix not in _WORDS:
            known = by_prefix.get(with_slash(prefix), ())
            by_prefix[with_slash(prefix)] = tuple(dict.fromkeys([*known, *(with_slash(each) for each in mirrors)]))
    return Mirrors(by_prefix, has_origin=table.get("origin") != "never")


def used() -> tuple[str, ...]:
    """The names of the presets that are in use, the best first, or `auto` alone; nothing when none is.

    Raises:
        InvalidFileError: config.toml is malformed; every issue is in it.
    """
    names = _table().get("use", ())
    chosen = (names,) if isinstance(names, str) else tuple(names)
    return () if chosen == ("off",) else chosen


def _from_variable(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for pair in text.split():
        prefix, equals, mirror = pair.partition("=")
        if not equals or _problem(prefix) or _problem(mirror):
            raise EnvtoolError(
                f"{VARIABLE} must be pairs of CANONICAL=MIRROR URLs separated by spaces; not a pair: "
                f"{prefix.rpartition('@')[2]}{equals}{mirror.rpartition('@')[2]}",
                f"{VARIABLE}='https://conda.anaconda.org/conda-forge/=https://mirror.example.org/conda-forge/'",
            )
        found[with_slash(prefix)] = (*found.get(with_slash(prefix), ()), with_slash(mirror))
    return found


def _table() -> dict[str, Any]:
    name, table = str(config_toml.location()), config_toml.read_table("mirrors")
    if isinstance(table, str):
        table = {"use": table}
    issues = list(_table_issues(name, table))
    if issues:
        raise InvalidFileError(name, issues, '"https://canonical/…/" = ["https://mirror/…/"] is the form of a line')
    found: dict[str, Any] = table
    return found


def _table_issues(name: str, table: Any) -> Iterable[Issue]:
    if not isinstance(table, dict):
        yield Issue(f"{name}: mirrors", "must be a table of canonical URL to a list of mirror URLs")
        return
    yield from _word_issues(name, table)
    for prefix, mirrors in table.items():
        place = f'{name}: mirrors."{prefix}"'
        if prefix in _WORDS:
            continue
        if problem := _problem(prefix):
            yield Issue(place, f"the key {problem}")
        if not isinstance(mirrors, list) or not mirrors or not all(isinstance(each, str) for each in mirrors):
            yield Issue(place, "must be a list of URLs, with one at least")
            continue
        for position, mirror in enumerate(mirrors):
            if problem := _problem(mirror):
                yield Issue(f"{place}[{position}]", problem)


def _word_issues(name: str, table: Mapping[str, Any]) -> Iterable[Issue]:
    names = table.get("use", "auto")
    if not isinstance(names, str) and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
        yield Issue(f"{name}: mirrors.use", "must be auto, off, the name of a preset, or a list of names")
    if table.get("origin", "last") not in ("last", "never"):
        yield Issue(f"{name}: mirrors.origin", "must be last or never")


def _problem(url: str) -> str | None:
    # A raw prefix without its end would also stand for a neighbour: …/pytorch for …/pytorch-lts. `with_slash` sees to
    # that; a query or a fragment has no place before it.
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not (parts.netloc or parts.scheme == "file"):
        return "must be an http, https or file URL"
    if parts.query or parts.fragment:
        return "must have no query and no fragment"
    return None


def with_slash(url: str) -> str:
    """A URL with exactly one slash at its end."""
    return url.rstrip("/") + "/"


def _longest(prefixes: Iterable[str]) -> str | None:
    return max(prefixes, key=len, default=None)
