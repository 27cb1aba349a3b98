"""Statements of a conda archive about itself, checked before any other program follows it.

Every path has to be a plain one inside the prefix: py-rattler takes what `paths.json` and `link.json` say, and a
`..` in them would read or write elsewhere.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from envtool.artifacts.conda_archive import Member, parse_info, read_info
from envtool.errors import ArchiveError

_PATH_TYPES = ("hardlink", "softlink", "directory")
# conda's notes and ours, and py-rattler's place for files that lost theirs.
# Where py-rattler puts what loses a path to another package.
CLOBBERS = "__clobbers__"
_RESERVED = ("conda-meta", CLOBBERS)
_LONGEST_BYTES = 4095
# What stands for the prefix where `has_prefix` names none. In two pieces, so that this file does not have it.
_OLD_PLACEHOLDER = "/opt/" + "anaconda1anaconda2anaconda3"


def require_plain(path: object, package: str, where: str) -> str:
    """A path that stays inside the directory that it is relative to. Raises ArchiveError if it is no plain relative
    path, or in a directory that belongs to no package."""
    parts = path.split("/") if isinstance(path, str) else [""]
    is_plain = not any(part in ("", ".", "..") or "\0" in part for part in parts)
    if not is_plain or len(str(path).encode(errors="surrogatepass")) > _LONGEST_BYTES:
        raise ArchiveError(f"{package}: expected a plain path inside the prefix in {where}, found {path!r:.200}")
    if parts[0] in _RESERVED:
        raise ArchiveError(f"{package}: {where} has {path!r:.200}, but {parts[0]} belongs to no package")
    return str(path)


def paths(archive: Path, content: Any) -> dict[str, Mapping[str, Any]]:
    """The entries of `info/paths.json`, by their checked path. Raises ArchiveError if one is malformed, or its path
    leaves the prefix."""
    entries = content.get("paths") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ArchiveError(f"{archive}: info/paths.json has no list of paths")
    found: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("path_type") not in _PATH_TYPES:
            raise ArchiveError(f"{archive}: info/paths.json has an invalid entry: {entry!r:.200}")
        found[require_plain(entry.get("_path"), str(archive), "info/paths.json")] = entry
    return found


def cached_paths(archive: Path) -> list[str]:
    """The paths that an archive states; none where there is no such archive or it cannot be read."""
    try:
        return list(paths(archive, parse_info(archive, read_info(archive, ["paths.json"]), "paths.json")))
    except ArchiveError:
        return []


def listed(payload: Iterable[Member], info: Mapping[str, bytes]) -> bytes:
    """What `info/paths.json` would say of an archive from before there was one (CEP 34, `files` and `has_prefix`)."""
    members = {each.path: each for each in payload}
    names = info["files"].decode(errors="replace").splitlines() if "files" in info else list(members)
    placeholders = dict(map(_placeholder, info.get("has_prefix", b"").decode(errors="replace").splitlines()))
    no_link = set(info.get("no_link", b"").decode(errors="replace").splitlines())
    entries: list[dict[str, Any]] = []
    for name in dict.fromkeys(each.strip() for each in names if each.strip()):
        is_link = name in members and members[name].is_link
        entry = {"_path": name, "path_type": "softlink" if is_link else "hardlink", **placeholders.get(name, {})}
        entries.append({**entry, "no_link": True} if name in no_link else entry)
    return json.dumps({"paths": entries, "paths_version": 1}).encode()


def _placeholder(line: str) -> tuple[str, dict[str, str]]:
    # `placeholder mode path`, each in quotes if need be, or the path alone.
    try:
        parts = shlex.split(line)
    except ValueError:
        parts = [line]
    text, mode, path = parts if len(parts) == 3 else (_OLD_PLACEHOLDER, "text", line.strip())
    return path, {"prefix_placeholder": text, "file_mode": mode}


def entry_points(archive: Path, content: Any) -> list[str]:
    """The names of the scripts that linking a noarch Python package makes, from `info/link.json`. Raises ArchiveError
    if one is malformed, or its name is no plain file name."""
    noarch = content.get("noarch") if isinstance(content, dict) else None
    points = (noarch.get("entry_points") if isinstance(noarch, dict) else None) or []
    if not isinstance(points, (list, tuple)) or not all(isinstance(each, str) for each in points):
        raise ArchiveError(f"{archive}: the entry points of info/link.json are not a list of texts")
    names = [each.partition("=")[0].strip() for each in points]
    for name in names:
        if "/" in require_plain(name, str(archive), "the entry points of info/link.json"):
            raise ArchiveError(f"{archive}: expected a file name as entry point, found {name!r:.200}")
    return names


def site_packages(archive: Path, index: Mapping[str, Any]) -> str:
    """Where a package that is Python has the modules of others (CEP 17), relative to the prefix. Raises ArchiveError if
    the path that it states leaves the prefix."""
    path = index.get("python_site_packages_path")
    if path is None:
        version = re.match(r"\d+(\.\d+)?", str(index.get("version")))
        path = f"lib/python{version.group() if version else '3'}/site-packages"
    return require_plain(path, str(archive), "python_site_packages_path of info/index.json")


def place_of(path: str, site_packages: str) -> str:
    """Where a file of a noarch Python package is put, relative to the prefix (CEP 20)."""
    if path.startswith("site-packages/"):
        return f"{site_packages}/{path[len('site-packages/') :]}"
    return f"bin/{path[len('python-scripts/') :]}" if path.startswith("python-scripts/") else path
