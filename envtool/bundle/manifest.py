"""The manifest of a bundle: every file with its sha256 and size; it comes first in the bundle.

Nothing is in a bundle that the manifest does not name, so that one signature over the manifest covers all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from envtool.errors import BundleError

FORMAT = "envtool-bundle-1"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
LOCKFILE = "conda-lock.yml"
STARTER = "install.pyz"
# The glibc that the tools of a bundle need: Debian 10, Ubuntu 20.04 and RHEL 8 have it.
TOOLS_GLIBC = "2.28"
_FILE = re.compile(r"files/(?P<sha256>[0-9a-f]{64})/[^/\x00-\x1f]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FOREIGN_HINT = "envtool bundle create makes bundles; is this one from a newer envtool?"


@dataclass(frozen=True)
class File:
    """One file of a bundle."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds.

    Args:
        files: every file but the manifest and its signature, by path.
        tools: the wheels that run envtool, as paths, by platform and Python version such as `3.11`.
    """

    created_by: str
    platforms: tuple[str, ...]
    categories: tuple[str, ...]
    files: Mapping[str, File]
    tools: Mapping[str, Mapping[str, tuple[str, ...]]]

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(each.size_bytes for each in self.files.values())

    def format(self) -> bytes:
        """The manifest as bytes: equal values give equal bytes."""
        value = {
            "format": FORMAT,
            "created_by": self.created_by,
            "platforms": self.platforms,
            "categories": self.categories,
            "files": {
                path: {"sha256": each.sha256, "size_bytes": each.size_bytes} for path, each in self.files.items()
            },
            "tools": self.tools,
        }
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def path_of(name: str, sha256: str) -> str:
    """The path of an archive or wheel in a bundle; by its hash, since two channels may have one name for two files."""
    return f"files/{sha256}/{name}"


def parse(content: bytes, owner: str) -> Manifest:
    """Read a manifest. Keys that are not known are left alone, since a newer envtool may write more.

    Raises:
        BundleError: it is no manifest of a bundle, or is of another format.
    """
    try:
        value: dict[str, Any] = json.loads(content)
        found = value.get("format")
    except (ValueError, AttributeError) as error:
        raise BundleError(f"{owner}: {MANIFEST} is not a JSON object: {error}", _FOREIGN_HINT) from None
    if found != FORMAT:
        raise BundleError(f"{owner}: expected a bundle of the format {FORMAT}, found {found!r}", _FOREIGN_HINT)
    try:
        manifest = _manifest(value)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(f"{owner}: {MANIFEST} is malformed: {error!r}", _FOREIGN_HINT) from None
    for problem in _problems(manifest):
        raise BundleError(f"{owner}: {MANIFEST} is malformed: {problem}", _FOREIGN_HINT)
    return manifest


def _manifest(value: Mapping[str, Any]) -> Manifest:
    return Manifest(
        created_by=str(value["created_by"]),
        platforms=tuple(map(str, value["platforms"])),
        categories=tuple(map(str, value["categories"])),
        files={path: File(str(each["sha256"]), int(each["size_bytes"])) for path, each in value["files"].items()},
        tools={
            platform: {python: tuple(map(str, paths)) for python, paths in by_python.items()}
            for platform, by_python in value["tools"].items()
        },
    )


def _problems(manifest: Manifest) -> Iterator[str]:
    for path, file in manifest.files.items():
        match = _FILE.fullmatch(path)
        if not match and path not in (LOCKFILE, STARTER):
            yield f"{path!r} does not belong in a bundle"
        elif match and match["sha256"] != file.sha256:
            yield f"{path} is under another hash than its own, {file.sha256}"
        elif not _SHA256.fullmatch(file.sha256) or file.size_bytes < 0:
            yield f"{path} has no sha256 and size"
    for path in (LOCKFILE, STARTER):
        if path not in manifest.files:
            yield f"it does not name {path}"
    for by_python in manifest.tools.values():
        yield from (f"a tool is not in it: {path}" for each in by_python.values() for path in each
                    if path not in manifest.files)  # fmt: skip
