"""A lock as frozen values; `envtool.lockfile.conda_lock_v1` reads and writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import unquote


@dataclass(frozen=True)
class Tool:
    """A wheel that the build needs: its backend, or what the backend needs."""

    name: str
    version: str
    url: str
    sha256: str


@dataclass(frozen=True)
class SourceBuild:
    """How a wheel was made.

    Args:
        version: the version that the backend is given where it would ask git for it.
        tree_sha256: hash of the files that it was made of, as `envtool.source_builds.git.tree_sha256` takes it.
        committed_at: when they were committed, in seconds since 1970; the backend's clock.
    """

    wheel: str
    version: str
    tree_sha256: str
    committed_at: int
    tools: tuple[Tool, ...]


def serialize_builds(builds: Mapping[str, SourceBuild]) -> str:
    """Builds by a key, as text for a lock's custom_metadata."""
    return json.dumps({key: asdict(each) for key, each in builds.items()}, sort_keys=True, indent=1)


def parse_builds(text: str) -> dict[str, SourceBuild]:
    """The builds in a lock's custom_metadata; what somebody spoilt is left out, and its package cannot be made."""
    try:
        found: dict[str, Any] = json.loads(text)
        return {key: _build(each) for key, each in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _build(fields: Mapping[str, Any]) -> SourceBuild:
    return SourceBuild(**{**fields, "tools": tuple(Tool(**each) for each in fields.get("tools", ()))})


VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def variable_problem(name: str, value: str) -> str | None:
    """Why a variable cannot be set, or None when it can."""
    if not VARIABLE_NAME.fullmatch(name):
        return f"variable {name!r} must have letters, digits and _ alone, and start with no digit"
    try:
        is_text = "\0" not in value and bool(value.encode() or True)
    except UnicodeEncodeError:
        is_text = False
    return None if is_text else f"the value of {name} has a character that no variable can hold"


@dataclass(frozen=True)
class LockedPackage:
    """One archive or wheel of the lock.

    Args:
        url: the canonical URL, never that of a mirror.
        sha256: hash of the file; conda records that have only an MD5 have None.
        md5: the same in MD5; conda-lock demands it for conda packages.
        size_bytes: size of the file, where the channel or index states it.
        built: how the wheel was made, if its URL is that of a commit.
        access_url: the URL with the variables for its credentials that the lock names for its channel or index; None
            where it names none.
    """

    manager: str
    name: str
    version: str
    platform: str
    url: str
    sha256: str | None
    md5: str | None = None
    dependencies: Mapping[str, str] = field(default_factory=dict)
    category: str = "main"
    build: str | None = None
    size_bytes: int | None = None
    built: SourceBuild | None = None
    access_url: str | None = field(default=None, compare=False)

    @property
    def file_name(self) -> str:
        """The name of the archive or wheel, the last part of its URL."""
        if self.built:
            return self.built.wheel
        return unquote(self.url.partition("#")[0].rpartition("/")[2])

    @property
    def build_string(self) -> str | None:
        """The build of a conda package, which its file name has even where the lock has not."""
        if self.build or self.manager != "conda":
            return self.build
        return re.sub(r"\.(conda|tar\.bz2)$", "", self.file_name).rpartition("-")[2]

    @property
    def sort_key(self) -> tuple[str, str, str, str]:
        """The order of the file."""
        return self.manager, self.name, self.platform, self.category


@dataclass(frozen=True)
class Lockfile:
    """A whole lock, its packages in the order of the file."""

    packages: tuple[LockedPackage, ...]
    channels: tuple[str, ...]
    platforms: tuple[str, ...]
    sources: tuple[str, ...]
    content_hash: Mapping[str, str]
    custom_metadata: Mapping[str, str] = field(default_factory=dict)

    def select(self, platform: str, categories: Sequence[str] = ("main",)) -> tuple[LockedPackage, ...]:
        """The packages of one platform and some categories."""
        return tuple(each for each in self.packages if each.platform == platform and each.category in categories)


def file_parts(url: str) -> tuple[str, str, str]:
    """Name, version and build of the archive at a URL."""
    stem = re.sub(r"\.(conda|tar\.bz2)$", "", unquote(url.rpartition("/")[2]))
    name, version, build = stem.rsplit("-", 2)
    return name.lower(), version, build
