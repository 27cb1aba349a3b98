"""A conda package before it is packed: metadata and files as frozen values.

Everything that the archive depends on is here, so that its build string can be a digest of the content: other content,
other file name, and no cache ever holds a stale package.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from envtool.errors import ArchiveError

PLACEHOLDER = "/opt/envtool_prefix_placeholder" + "_placehold" * 16
"""What stands for the prefix in text files; as long as conda's own, which some tools expect of a placeholder."""


@dataclass(frozen=True)
class Entry:
    """One file or symbolic link."""

    path: str
    content: bytes  # of a link, that of the file that it points to
    is_executable: bool = False
    link: str | None = None
    has_placeholder: bool = False

    @property
    def sha256(self) -> str:
        """Hash of the content."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Package:
    """A whole package.

    Args:
        files: what goes into the prefix; a noarch Python package has `site-packages/` and `python-scripts/`.
        about: what goes into `info/` only: licences and the recipe, with paths relative to `info/`.
    """

    name: str
    version: str
    build_number: int
    subdir: str
    depends: tuple[str, ...]
    license: str
    summary: str
    home: str | None
    files: tuple[Entry, ...]
    about: tuple[Entry, ...] = ()
    entry_points: tuple[str, ...] = ()
    build_suffix: str = ""
    build_prefix: str = ""
    is_generic: bool = False

    @property
    def noarch(self) -> str | None:
        """`python` or `generic`; None for a package of one platform."""
        if self.subdir != "noarch":
            return None
        return "generic" if self.is_generic else "python"

    @property
    def digest(self) -> str:
        """A sha256 of all that the archive holds."""
        digest = hashlib.sha256()
        facts = [self.name, self.version, self.build_number, self.subdir, self.license, self.summary, self.home]
        digest.update(json.dumps([*facts, self.depends, self.entry_points, *["generic"] * self.is_generic]).encode())
        for group in (self.files, self.about):
            for entry in sorted(group, key=lambda each: each.path):
                row = [entry.path, entry.sha256, entry.is_executable, entry.link, entry.has_placeholder]
                digest.update(json.dumps(row).encode())
        return digest.hexdigest()

    @property
    def build(self) -> str:
        """The build string: a digest of the content and the build number, in the form that conda's tools use."""
        letters = "pyh" if self.noarch == "python" else f"{self.build_prefix}h"
        return f"{letters}{self.digest[:10]}_{self.build_number}{self.build_suffix}"

    @property
    def stem(self) -> str:
        """The file name of the archive without its ending."""
        return f"{self.name}-{self.version}-{self.build}"

    @property
    def file_name(self) -> str:
        """The file name of the archive."""
        return f"{self.stem}.conda"


def safe_path(path: str, owner: str) -> str:
    """The path in its plain form (`./a//b` becomes `a/b`). Raises ArchiveError if the path would leave the directory
    that it is unpacked in, or cannot be a path."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or re.search(r"[\x00-\x1f\\]", path):
        raise ArchiveError(
            f"{owner} has an unsafe member path: {path!r}",
            "nothing was unpacked; the file was not made by a packaging tool",
        )
    return "/".join(parts)
