"""Presets: mirrors by name, each with the channels that it has. Ours are data beside this file, users add their own.

    [presets.corp]
    pypi = "https://mirror.example.org/simple"

    [presets.corp.channels]
    "https://conda.anaconda.org/conda-forge/" = "https://${MIRROR_USER}:${MIRROR_PASSWORD}@mirror.example.org/conda-forge/"

Out of scope: whether a mirror works (`envtool.mirrors.benchmark`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from envtool.errors import InvalidFileError, Issue, MissingFileError
from envtool.fetch import url_credentials
from envtool.mirrors import config_toml
from envtool.mirrors.mirrors import with_slash

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BUILT_IN = Path(__file__).with_name("presets.toml")
_KEYS = ("title", "pypi", "channels", "notes")
# The layout of a package index's own file store: two parts of the hash, the rest of it, the file. A mirror that was
# made by copying the index has the same paths, so that the canonical host need not be known by name.
_WHEEL = re.compile(r"(?P<store>https?://[^/]+/packages/)[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{60}/[^/]+")


@dataclass(frozen=True)
class Preset:
    """One mirror.

    Args:
        channels: canonical channel URL to the mirror's; all end with `/`.
    """

    name: str
    title: str
    channels: Mapping[str, str] = field(default_factory=dict)
    pypi: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def wheel_store(self) -> str | None:
        """Where its copies of wheels are, if it lays them out as the canonical index does."""
        if self.pypi is None or not self.pypi.rstrip("/").endswith("/simple"):
            return None
        return self.pypi.rstrip("/").removesuffix("simple") + "packages/"

    def mirror_of(self, channel: str) -> str | None:
        """Its URL for a canonical channel or a store of wheels, None when it has no such thing."""
        return self.wheel_store if is_wheel_store(channel) else self.channels.get(channel)


def channel_of(url: str) -> str:
    """The canonical channel of an archive, or the store of a wheel, as a URL that ends with `/`."""
    wheel = _WHEEL.match(url)
    return wheel["store"] if wheel else url.partition("#")[0].rsplit("/", 2)[0] + "/"


def is_wheel_store(channel: str) -> bool:
    """Whether a URL from `channel_of` is a store of wheels."""
    parts = urlsplit(channel)
    return parts.path == "/packages/" and bool(parts.netloc)


def presets() -> dict[str, Preset]:
    """Every preset by name: ours, then the user's, who may replace ours.

    Raises:
        InvalidFileError: config.toml is malformed; every issue is in it.
    """
    found = _parse(str(_BUILT_IN), tomllib.loads(_BUILT_IN.read_text(encoding="utf-8")))
    return {**found, **_parse(str(config_toml.location()), config_toml.read_table("presets"))}


def select(names: tuple[str, ...]) -> list[Preset]:
    """The presets of some names, in their order."""
    known = presets()
    for name in names:
        if name not in known:
            raise MissingFileError(f"there is no mirror preset {name!r}", f"there are: {', '.join(known)}")
    return [known[name] for name in names]


def _parse(name: str, table: Any) -> dict[str, Preset]:
    issues = list(_issues(name, table))
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


def _issues(name: str, table: Any) -> Iterator[Issue]:
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
    if not isinstance(notes, list) or not all(isinstance(each, str) for each in notes):
        yield Issue(f"{place}.notes", "must be a list of strings")
    channels = entry.get("channels", {})
    if not isinstance(channels, dict):
        yield Issue(f"{place}.channels", "must be a table of canonical URL to mirror URL")
        channels = {}
    urls = [
        (f"{place}.pypi", entry.get("pypi")),
        *((f'{place}.channels."{key}"', url) for key, url in channels.items()),
    ]
    for where, url in [*urls, *((f'{place}.channels."{key}"', key) for key in channels)]:
        if url is not None and urlsplit(str(url)).scheme not in ("http", "https", "file"):
            yield Issue(where, "must be an http, https or file URL")
        elif isinstance(url, str) and url_credentials.is_literal(url):
            yield Issue(where, "holds a credential; write ${NAME} and set the variable, or use netrc")
