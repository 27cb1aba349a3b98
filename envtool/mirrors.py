"""Mirrors: other places that have the bytes of a canonical URL.

A lock names canonical URLs only; where the bytes come from is a matter of the machine, and is configured there:
`[mirrors]` in `config.toml` under envtool's home, and the variable `ENVTOOL_MIRRORS`, which is looked at first.

    [mirrors]
    "https://conda.anaconda.org/conda-forge/" = ["https://mirror.example.org/anaconda/cloud/conda-forge/"]

Out of scope: which mirror is quick, and what to do when one fails.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from envtool import directories
from envtool.errors import EnvtoolError, InvalidFileError, Issue

VARIABLE = "ENVTOOL_MIRRORS"
_SCHEMES = ("http", "https", "file")


@dataclass(frozen=True)
class Mirrors:
    """Which mirrors stand for which canonical URLs.

    Args:
        by_prefix: A canonical URL prefix to the mirror URLs that stand for it, the best first; all end with `/`.
    """

    by_prefix: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def for_url(self, url: str) -> tuple[str, ...]:
        """Every URL that may have the bytes: the mirrors' in their order, the canonical one last."""
        prefix = _longest(each for each in self.by_prefix if url.startswith(each))
        if prefix is None:
            return (url,)
        mirrored = (mirror + url[len(prefix) :] for mirror in self.by_prefix[prefix])
        return tuple(dict.fromkeys([*mirrored, url]))

    def canonical(self, url: str) -> str:
        """The canonical URL of one that may be a mirror's; any other URL is returned as it is."""
        origins = {mirror: prefix for prefix, mirrors in self.by_prefix.items() for mirror in mirrors}
        mirror = _longest(each for each in origins if url.startswith(each))
        return url if mirror is None else origins[mirror] + url[len(mirror) :]


def configured() -> Mirrors:
    """The mirrors that this machine is set up for.

    Raises:
        InvalidFileError: config.toml is malformed; every issue is in it.
        EnvtoolError: The variable is malformed.
    """
    by_prefix = _from_variable(os.environ.get(VARIABLE, ""))
    for prefix, mirrors in _from_file(directories.home() / "config.toml").items():
        by_prefix[prefix] = tuple(dict.fromkeys([*by_prefix.get(prefix, ()), *mirrors]))
    return Mirrors(by_prefix)


def _from_variable(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for pair in text.split():
        prefix, equals, mirror = pair.partition("=")
        if not equals or _problem(prefix) or _problem(mirror):
            raise EnvtoolError(
                f"{VARIABLE} must be pairs of CANONICAL=MIRROR URLs separated by spaces; this one is none: "
                f"{prefix.rpartition('@')[2]}{equals}{mirror.rpartition('@')[2]}",
                f"{VARIABLE}='https://conda.anaconda.org/conda-forge/=https://mirror.example.org/conda-forge/'",
            )
        found[_closed(prefix)] = (*found.get(_closed(prefix), ()), _closed(mirror))
    return found


def _from_file(path: Path) -> dict[str, tuple[str, ...]]:
    if not path.exists():
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("mirrors", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidFileError(str(path), [Issue(str(path), f"not TOML: {error}")]) from error
    issues = list(_table_issues(str(path), table))
    if issues:
        raise InvalidFileError(
            str(path), issues, '"https://canonical/…/" = ["https://mirror/…/"] is the form of a line'
        )
    return {_closed(prefix): tuple(_closed(each) for each in mirrors) for prefix, mirrors in table.items()}


def _table_issues(name: str, table: Any) -> Iterable[Issue]:
    if not isinstance(table, dict):
        yield Issue(f"{name}: mirrors", "must be a table of canonical URL to a list of mirror URLs")
        return
    for prefix, mirrors in table.items():
        place = f'{name}: mirrors."{prefix}"'
        if problem := _problem(prefix):
            yield Issue(place, f"the key {problem}")
        if not isinstance(mirrors, list) or not mirrors or not all(isinstance(each, str) for each in mirrors):
            yield Issue(place, "must be a list of URLs, with one at least")
            continue
        for position, each in enumerate(mirrors):
            if problem := _problem(each):
                yield Issue(f"{place}[{position}]", problem)


def _problem(url: str) -> str | None:
    # A raw prefix without its end would also stand for a neighbour: …/pytorch for …/pytorch-lts. `_closed` sees to
    # that; a query or a fragment has no place before it.
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not (parts.netloc or parts.scheme == "file"):
        return "must be an http, https or file URL"
    if parts.query or parts.fragment:
        return "must have no query and no fragment"
    return None


def _closed(url: str) -> str:
    return url.rstrip("/") + "/"


def _longest(prefixes: Iterable[str]) -> str | None:
    return max(prefixes, key=len, default=None)
