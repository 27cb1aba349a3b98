"""A lock as frozen values. A git requirement is `NAME @ git+URL@REVISION#subdirectory=DIRECTORY`. Source: pip
documentation, "VCS Support"; PEP 440, "Direct references"."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

from envtool.fetch import credentials

_SCHEMES = ("https", "http", "ssh", "file", "git")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_VARIABLES = re.compile(r"(\$(\{\w+\}|\w+))+")
_PREFIX = "git+"


class Repository(NamedTuple):
    """Where a project is in a git repository."""

    url: str  # the repository, with variables for its credentials and without `git+`
    revision: str | None = None  # a branch, a tag or a commit; None means what the repository has checked out
    subdirectory: str = ""  # the directory of the project in it; empty for the repository itself

    @property
    def commit(self) -> str | None:
        """The revision, where it is a whole commit."""
        return self.revision if self.revision and _COMMIT.fullmatch(self.revision) else None

    @property
    def shown(self) -> str:
        """The URL as it may be shown and given to git: without user and password, but for the user of ssh."""
        parts = urlsplit(self.url)
        return self.url if parts.scheme == "ssh" else credentials.strip(self.url)

    @property
    def name(self) -> str:
        """The last part of its path, as the name of a directory."""
        name = self.url.rstrip("/").rpartition("/")[2]
        return re.sub(r"\.git$|[^\w.-]", "", name).strip(".") or "project"

    @property
    def locator(self) -> str:
        """The commit for a bill of materials. Source: SPDX specification, "Package download location"."""
        return str(self._replace(url=self.shown))

    def at(self, commit: str) -> Repository:
        """The same project at a commit."""
        return self._replace(revision=commit)

    def __str__(self) -> str:
        at = f"@{quote(self.revision, safe='/')}" if self.revision else ""
        below = f"#subdirectory={quote(self.subdirectory, safe='/')}" if self.subdirectory else ""
        return f"{_PREFIX}{self.url}{at}{below}"


def is_repository(url: str | None) -> bool:
    """Whether a URL is that of a git repository in the form that pip takes."""
    return bool(url and url.startswith(_PREFIX))


def parse_repository(text: str) -> Repository:
    """Parse `git+URL@REVISION#subdirectory=DIRECTORY`. Raises ValueError, with the reason, if it cannot be used."""
    parts = urlsplit(text[len(_PREFIX) :])
    if parts.scheme not in _SCHEMES or not (parts.netloc or parts.scheme == "file"):
        raise ValueError(f"expected git+ and {', '.join(_SCHEMES[:-1])} or {_SCHEMES[-1]}, found {text!r}")
    # The user of ssh is part of the address (git@host), and that of a token is often a fixed word; neither is a secret.
    user, colon, password = parts.netloc.rpartition("@")[0].partition(":")
    if user and (parts.scheme != "ssh" or colon) and not _VARIABLES.fullmatch(password if colon else user):
        stripped = credentials.strip(text[len(_PREFIX) :])
        raise ValueError(f"credentials in {stripped}; write variables: git+https://${{TOKEN}}@host/")
    host, colon, port = parts.netloc.rpartition("@")[2].partition(":")
    if colon and port and not port.isdigit() and not host.startswith("["):
        form = f"{parts.netloc.rpartition(':')[0]}/{port}/…, with a slash after the host"
        raise ValueError(f"{port!r} is not a port; write {form}")
    path, at, revision = parts.path.rpartition("@")
    path, revision = (path, revision) if at else (parts.path, "")
    options = parse_qs(parts.fragment)
    subdirectory = unquote(options.pop("subdirectory", [""])[0]).strip("/")
    options.pop("egg", None)  # the name, which stands before the URL already
    if options:
        raise ValueError(f"{', '.join(options)} after # has no meaning for a repository; subdirectory= has")
    if ".." in subdirectory.split("/"):
        raise ValueError(f"subdirectory {subdirectory!r} leads out of the repository")
    if revision.startswith("-"):
        raise ValueError(f"{revision!r} is not a branch, tag or commit")
    url = urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
    return Repository(url, unquote(revision) or None, subdirectory)


@dataclass(frozen=True)
class Tool:
    """A wheel that the build needs: its backend, or what the backend needs."""

    name: str
    version: str
    url: str
    sha256: str


@dataclass(frozen=True)
class SourceBuild:
    """How a wheel was made."""

    wheel: str
    version: str  # the version that the backend is given where it would ask git for it
    tree_sha256: str  # hash of the files that it was made of, as `envtool.source_builds.git.tree_sha256` takes it
    committed_at: int  # when they were committed, in seconds since 1970; the backend's clock
    tools: tuple[Tool, ...]


def parse_builds(text: str) -> dict[str, SourceBuild]:
    """The builds in a lock's custom_metadata; what somebody spoilt is left out, and its package cannot be made."""
    try:
        found: dict[str, Any] = json.loads(text)
        tools = {key: tuple(Tool(**tool) for tool in each.get("tools", ())) for key, each in found.items()}
        return {key: SourceBuild(**{**each, "tools": tools[key]}) for key, each in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


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
    """One archive or wheel of the lock."""

    manager: str
    name: str
    version: str
    platform: str
    url: str  # the canonical URL, never that of a mirror
    sha256: str | None  # hash of the file; conda records that have only an MD5 have None
    md5: str | None = None  # the same in MD5; conda-lock demands it for conda packages
    dependencies: Mapping[str, str] = field(default_factory=dict)
    category: str = "main"
    build: str | None = None
    size_bytes: int | None = None  # size of the file, where the channel or index states it
    built: SourceBuild | None = None  # how the wheel was made, if its URL is that of a commit
    # the URL with the variables for its credentials that the lock names for its channel or index; None where it names
    # none
    access_url: str | None = field(default=None, compare=False)

    @property
    def file_name(self) -> str:
        """The name of the archive or wheel, the last part of its URL."""
        if self.built:
            return self.built.wheel
        return file_name_of(self.url)

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

    def of(self, platform: str) -> dict[tuple[str, str], LockedPackage]:
        """The packages of one platform by manager and name."""
        return {(package.manager, package.name): package for package in self.packages if package.platform == platform}


def file_name_of(url: str) -> str:
    """The name of the file at a URL, its last part."""
    return unquote(url.partition("#")[0].rpartition("/")[2])


def file_parts(url: str) -> tuple[str, str, str]:
    """Name, version and build of the archive at a URL."""
    name, version, build = re.sub(r"\.(conda|tar\.bz2)$", "", file_name_of(url)).rsplit("-", 2)
    return name.lower(), version, build
