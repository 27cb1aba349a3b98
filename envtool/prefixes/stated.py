"""What a conda archive states about itself, checked before any other program follows it.

Every path has to be a plain one inside of the prefix: py-rattler takes what `paths.json` and `link.json` say, and a
`..` in them would read or write elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envtool.errors import ArchiveError
from envtool.prefixes.clobber import DIRECTORY

_PATH_TYPES = ("hardlink", "softlink", "directory")
# conda's notes and ours, and py-rattler's place for files that lost theirs.
_RESERVED = ("conda-meta", DIRECTORY)
_LONGEST_BYTES = 4095


def plain(path: str) -> str:
    """The path of a member of an archive as `paths.json` has it: without `./` before it."""
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return path


def require_plain(path: object, package: str, where: str) -> str:
    """A path that stays inside of the directory that it is relative to.

    Args:
        path: The path as the package states it.
        package: The package, for messages.
        where: What states it.

    Raises:
        ArchiveError: It is no plain relative path, or in a directory that belongs to no package.
    """
    parts = path.split("/") if isinstance(path, str) else [""]
    is_plain = not any(part in ("", ".", "..") or "\0" in part for part in parts)
    if not is_plain or len(str(path).encode(errors="surrogatepass")) > _LONGEST_BYTES:
        raise ArchiveError(f"{package}: expected a plain path inside of the prefix in {where}, found {path!r:.200}")
    if parts[0] in _RESERVED:
        raise ArchiveError(f"{package}: {where} has {path!r:.200}, but {parts[0]} belongs to no package")
    return str(path)


def paths(archive: Path, content: Any) -> dict[str, Mapping[str, Any]]:
    """The entries of `info/paths.json`, by their checked path.

    Raises:
        ArchiveError: One is malformed, or its path leaves the prefix.
    """
    entries = content.get("paths") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ArchiveError(f"{archive}: info/paths.json has no list of paths")
    found: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("path_type") not in _PATH_TYPES:
            raise ArchiveError(f"{archive}: info/paths.json has an entry that is none: {entry!r:.200}")
        found[require_plain(entry.get("_path"), str(archive), "info/paths.json")] = entry
    return found


def entry_points(archive: Path, content: Any) -> list[str]:
    """The names of the scripts that linking a noarch Python package makes, from `info/link.json`.

    Raises:
        ArchiveError: One is malformed, or its name is no plain file name.
    """
    noarch = content.get("noarch") if isinstance(content, dict) else None
    points = (noarch.get("entry_points") if isinstance(noarch, dict) else None) or []
    if not isinstance(points, (list, tuple)) or not all(isinstance(each, str) for each in points):
        raise ArchiveError(f"{archive}: the entry points of info/link.json are no list of texts")
    names = [each.partition("=")[0].strip() for each in points]
    for name in names:
        if "/" in require_plain(name, str(archive), "the entry points of info/link.json"):
            raise ArchiveError(f"{archive}: expected a file name as entry point, found {name!r:.200}")
    return names


def site_packages(archive: Path, index: Mapping[str, Any]) -> str:
    """Where a package that is Python has the modules of others (CEP 17), relative to the prefix.

    Raises:
        ArchiveError: The path that it states leaves the prefix.
    """
    path = index.get("python_site_packages_path")
    if path is None:
        version = re.match(r"\d+(\.\d+)?", str(index.get("version")))
        path = f"lib/python{version.group() if version else '3'}/site-packages"
    return require_plain(path, str(archive), "python_site_packages_path of info/index.json")
