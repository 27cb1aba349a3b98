"""Mirrors: other places that have the bytes of a canonical URL, as this machine is set up: `[mirrors]` in `config.toml`
under envtool's home, after the variable `ENVTOOL_MIRRORS` (docs/reference/mirrors.md). Presets are mirrors by name,
ours in a file beside this one. Out of scope: which mirror is quick, and what to do when one fails."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from envtool import paths
from envtool.errors import EnvtoolError, InvalidFileError, Issue, MissingFileError
from envtool.fetch import credentials


def config_path() -> Path:
    """The path of the file, which need not exist."""
    return paths.home() / "config.toml"


def read_table(name: str) -> Any:
    """A key of config.toml, unchecked; an empty table where it is missing. Raises InvalidFileError."""
    from envtool import toml

    path = config_path()
    if not path.exists():
        return {}
    try:
        return toml.loads(path.read_text(encoding="utf-8")).get(name, {})
    except (OSError, UnicodeDecodeError, toml.TOMLDecodeError) as error:
        raise InvalidFileError(str(path), [Issue(str(path), f"not TOML: {error}")]) from error


VARIABLE = "ENVTOOL_MIRRORS"
AUTO = "auto"
_SCHEMES = ("http", "https", "file")
_WORDS = ("use", "origin")


@dataclass(frozen=True)
class Mirrors:
    """Which mirrors stand for which canonical URLs."""

    # a canonical URL prefix to the mirror URLs that stand for it, the best first; all end with `/`
    by_prefix: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    has_origin: bool = True  # whether the canonical URL itself may be asked where there is a mirror for it

    def for_url(self, url: str) -> tuple[str, ...]:
        """Every URL that may have the bytes: the mirrors' in their order, the canonical one last or not at all."""
        prefix = max(filter(url.startswith, self.by_prefix), key=len, default=None)
        if prefix is None:
            return (url,)
        mirrored = [mirror + url[len(prefix) :] for mirror in self.by_prefix[prefix]]
        if self.has_origin:
            return tuple(dict.fromkeys([*mirrored, url]))
        return tuple(each for each in dict.fromkeys(mirrored) if each != url) or (url,)

    def canonical(self, url: str) -> str:
        """The canonical URL of one that may be a mirror's; any other URL is returned as it is."""
        origins = {mirror: prefix for prefix, mirrors in self.by_prefix.items() for mirror in mirrors}
        mirror = max(filter(url.startswith, origins), key=len, default=None)
        return url if mirror is None else origins[mirror] + url[len(mirror) :]


def configured() -> Mirrors:
    """The mirrors that this machine is set up for. Raises InvalidFileError with every issue of config.toml."""
    by_prefix: dict[str, tuple[str, ...]] = {}
    for pair in os.environ.get(VARIABLE, "").split():
        prefix, equals, mirror = pair.partition("=")
        if not equals or _problem(prefix) or _problem(mirror):
            raise EnvtoolError(
                f"{VARIABLE} must be pairs of CANONICAL=MIRROR URLs separated by spaces; not a pair: "
                f"{prefix.rpartition('@')[2]}{equals}{mirror.rpartition('@')[2]}",
                f"{VARIABLE}='https://conda.anaconda.org/conda-forge/=https://mirror.example.org/conda-forge/'",
            )
        by_prefix[with_slash(prefix)] = (*by_prefix.get(with_slash(prefix), ()), with_slash(mirror))
    table = _table()
    for prefix, mirrors in table.items():
        if prefix not in _WORDS:
            known = by_prefix.get(with_slash(prefix), ())
            by_prefix[with_slash(prefix)] = tuple(dict.fromkeys([*known, *(with_slash(each) for each in mirrors)]))
    return Mirrors(by_prefix, has_origin=table.get("origin") != "never")


def used() -> tuple[str, ...]:
    """The names of the presets in use, the best first, or `auto` alone. Raises InvalidFileError with every issue."""
    names = _table().get("use", ())
    chosen = (names,) if isinstance(names, str) else tuple(names)
    return () if chosen == ("off",) else chosen


def _table() -> dict[str, Any]:
    name, table = str(config_path()), read_table("mirrors")
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
    names = table.get("use", AUTO)
    if not isinstance(names, str) and not _is_list_of_strings(names):
        yield Issue(f"{name}: mirrors.use", "must be auto, off, the name of a preset, or a list of names")
    if table.get("origin", "last") not in ("last", "never"):
        yield Issue(f"{name}: mirrors.origin", "must be last or never")
    for prefix, mirrors in table.items():
        place = f'{name}: mirrors."{prefix}"'
        if prefix in _WORDS:
            continue
        if problem := _problem(prefix):
            yield Issue(place, f"the key {problem}")
        if not mirrors or not _is_list_of_strings(mirrors):
            yield Issue(place, "must be a list of URLs, with one at least")
            continue
        for position, mirror in enumerate(mirrors):
            if problem := _problem(mirror):
                yield Issue(f"{place}[{position}]", problem)


def _is_list_of_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


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


_BUILT_IN = Path(__file__).with_name("presets.toml")
_KEYS = ("title", "pypi", "channels", "notes")
# The layout of a package index's own file store: two parts of the hash, the rest of it, the file. A mirror that was
# made by copying the index has the same paths, so that the canonical host need not be known by name.
_WHEEL = re.compile(r"(?P<store>https?://[^/]+/packages/)[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{60}/[^/]+")


@dataclass(frozen=True)
class Preset:
    """One mirror (`channels`: canonical channel URL to the mirror's; all end with `/`)."""

    name: str
    title: str
    channels: Mapping[str, str] = field(default_factory=dict)
    pypi: str | None = None
    notes: tuple[str, ...] = ()

    def mirror_of(self, channel: str) -> str | None:
        """Its URL for a canonical channel or a store of wheels, None when it has no such thing."""
        if not is_wheel_store(channel):
            return self.channels.get(channel)
        # Where its copies of wheels are, if it lays them out as the canonical index does.
        base, _, last = (self.pypi or "").rstrip("/").rpartition("/")
        return f"{base}/packages/" if last == "simple" else None


def channel_of(url: str) -> str:
    """The canonical channel of an archive, or the store of a wheel, as a URL that ends with `/`."""
    wheel = _WHEEL.match(url)
    return wheel["store"] if wheel else url.partition("#")[0].rsplit("/", 2)[0] + "/"


def is_wheel_store(channel: str) -> bool:
    """Whether a URL from `channel_of` is a store of wheels."""
    parts = urlsplit(channel)
    return parts.path == "/packages/" and bool(parts.netloc)


def presets() -> dict[str, Preset]:
    """Every preset by name: ours, then the user's, who may replace ours. Raises InvalidFileError with every issue."""
    from envtool import toml

    found = _parse_presets(str(_BUILT_IN), toml.loads(_BUILT_IN.read_text(encoding="utf-8")))
    return {**found, **_parse_presets(str(config_path()), read_table("presets"))}


def select(names: tuple[str, ...]) -> list[Preset]:
    """The presets of some names, in their order."""
    known = presets()
    for name in names:
        if name not in known:
            raise MissingFileError(f"there is no mirror preset {name!r}", f"there are: {', '.join(known)}")
    return [known[name] for name in names]


def _parse_presets(name: str, table: Any) -> dict[str, Preset]:
    issues = list(_preset_issues(name, table))
    if issues:
        raise InvalidFileError(name, issues, "docs/reference/mirrors.md describes [presets.NAME]")
    return {
        key: Preset(
            name=key,
            title=entry.get("title", key),
            channels={with_slash(origin): with_slash(mirror) for origin, mirror in entry.get("channels", {}).items()},
            pypi=entry.get("pypi"),
            notes=tuple(entry.get("notes", ())),
        )
        for key, entry in table.items()
    }


def _preset_issues(name: str, table: Any) -> Iterator[Issue]:
    if not isinstance(table, dict):
        yield Issue(f"{name}: presets", "must be a table of names")
        return
    for key, entry in table.items():
        place = f"{name}: presets.{key}"
        if key in ("auto", "off"):
            yield Issue(place, "auto and off are no names of presets")
        if not isinstance(entry, dict):
            yield Issue(place, "must be a table")
            continue
        for unknown in entry.keys() - set(_KEYS):
            yield Issue(f"{place}.{unknown}", f"unknown key; known: {', '.join(_KEYS)}")
        yield from _value_issues(place, entry)


def _value_issues(place: str, entry: Mapping[str, Any]) -> Iterator[Issue]:
    for key in ("title", "pypi"):
        if key in entry and not isinstance(entry[key], str):
            yield Issue(f"{place}.{key}", "must be a string")
    notes = entry.get("notes", [])
    if not _is_list_of_strings(notes):
        yield Issue(f"{place}.notes", "must be a list of strings")
    channels = entry.get("channels", {})
    if not isinstance(channels, dict):
        yield Issue(f"{place}.channels", "must be a table of canonical URL to mirror URL")
        channels = {}
    urls = [(f"{place}.pypi", entry.get("pypi"))]
    for key, url in channels.items():
        urls += [(f'{place}.channels."{key}"', url), (f'{place}.channels."{key}"', key)]
    for where, url in urls:
        if url is not None and urlsplit(str(url)).scheme not in ("http", "https", "file"):
            yield Issue(where, "must be an http, https or file URL")
        elif isinstance(url, str) and credentials.is_literal(url):
            yield Issue(where, "holds a credential; write ${NAME} and set the variable, or use netrc")
