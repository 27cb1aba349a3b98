"""A git requirement: `NAME @ git+URL@REVISION#subdirectory=DIRECTORY`.

Source: pip documentation, "VCS Support"; PEP 440, "Direct references".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

from envtool.fetch import credentials

_SCHEMES = ("https", "http", "ssh", "file", "git")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_VARIABLES = re.compile(r"(\$(\{\w+\}|\w+))+")
_PREFIX = "git+"


@dataclass(frozen=True)
class Repository:
    """Where a project is in a git repository.

    Args:
        url: the repository, with variables for its credentials and without `git+`.
        revision: a branch, a tag or a commit; None means what the repository has checked out.
        subdirectory: the directory of the project in it; empty for the repository itself.
    """

    url: str
    revision: str | None = None
    subdirectory: str = ""

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
        return str(replace(self, url=self.shown))

    def at(self, commit: str) -> Repository:
        """The same project at a commit."""
        return replace(self, revision=commit)

    def __str__(self) -> str:
        at = f"@{quote(self.revision, safe='/')}" if self.revision else ""
        below = f"#subdirectory={quote(self.subdirectory, safe='/')}" if self.subdirectory else ""
        return f"{_PREFIX}{self.url}{at}{below}"


def is_repository(url: str | None) -> bool:
    """Whether a URL is that of a git repository in the form that pip takes."""
    return bool(url and url.startswith(_PREFIX))


def parse(text: str) -> Repository:
    """Parse `git+URL@REVISION#subdirectory=DIRECTORY`.

    Raises:
        ValueError: It cannot be used; the text has the reason.
    """
    parts = urlsplit(text[len(_PREFIX) :])
    if parts.scheme not in _SCHEMES or not (parts.netloc or parts.scheme == "file"):
        raise ValueError(f"expected git+ and {', '.join(_SCHEMES[:-1])} or {_SCHEMES[-1]}, found {text!r}")
    _refuse_literal_credentials(text, parts.scheme)
    _refuse_scp_form(parts.netloc)
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


def _refuse_literal_credentials(text: str, scheme: str) -> None:
    # The user of ssh is part of the address (git@host), and that of a token is often a fixed word; neither is a secret.
    user, colon, password = urlsplit(text[len(_PREFIX) :]).netloc.rpartition("@")[0].partition(":")
    is_named = scheme == "ssh" and not colon
    if user and not is_named and not _VARIABLES.fullmatch(password if colon else user):
        stripped = credentials.strip(text[len(_PREFIX) :])
        raise ValueError(f"credentials in {stripped}; write variables: git+https://${{TOKEN}}@host/")


def _refuse_scp_form(netloc: str) -> None:
    host, colon, port = netloc.rpartition("@")[2].partition(":")
    if colon and port and not port.isdigit() and not host.startswith("["):
        raise ValueError(
            f"{port!r} is not a port; write {netloc.rpartition(':')[0]}/{port}/…, with a slash after the host"
        )
