"""Contents of a prefix by its own notes: the conda packages of conda-meta, and the files that a wheel records."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from envtool.errors import PrefixError
from envtool.prefix.prefix import Prefix

_PYTHON_ENTRY_POINT = "unix_python_entry_point"
# What a conda that nobody configured calls them. Source: conda/models/channel.py, `Channel.canonical_name`.
_ALIAS = "https://conda.anaconda.org/"
_DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")


@dataclass(frozen=True)
class CondaPackage:
    """One record of conda-meta.

    Args:
        description: `channel/subdir::name-version-build`, as conda's history names it: conda takes what it would name
            otherwise for another package.
    """

    name: str
    version: str
    sha256: str
    description: str
    entry_points: tuple[str, ...]
    files: tuple[str, ...]


def conda_packages(prefix: Path) -> list[CondaPackage]:
    """The conda packages of a prefix. Raises PrefixError if a record of conda-meta is damaged."""
    return [_conda_package(path) for path in sorted((prefix / "conda-meta").glob("*.json"))]


def recorded_files(prefix: Path, record: str) -> Iterator[str]:
    """The files that a wheel brought, itself included, relative to the prefix."""
    site_packages = posixpath.dirname(posixpath.dirname(record))
    for line in (prefix / record).read_text(encoding="utf-8").splitlines():
        yield posixpath.normpath(posixpath.join(site_packages, line.rsplit(",", 2)[0].strip('"')))


def wheel_files(prefix: Prefix, names: Sequence[str]) -> Iterator[str]:
    """The files of distributions of a prefix, by the RECORD of their wheels."""
    wanted = {canonicalize_name(name) for name in names}
    site_packages = prefix.site_packages()
    for record in (prefix.path / site_packages).glob("*.dist-info/RECORD"):
        if canonicalize_name(record.parent.name.partition("-")[0]) in wanted:
            yield from recorded_files(prefix.path, f"{site_packages}/{record.parent.name}/RECORD")


def record_names(prefix: Path) -> set[str]:
    """`name-version-build` of each conda package of a prefix, without a look into the records."""
    return {path.name[: -len(".json")] for path in (prefix / "conda-meta").glob("*.json")}


def _conda_package(path: Path) -> CondaPackage:
    try:
        record: Mapping[str, Any] = json.loads(path.read_bytes())
        channel, subdir, _ = record["url"].rsplit("/", 2)
        channel = "defaults" if channel in _DEFAULTS else channel.removeprefix(_ALIAS)
        package = f"{record['name']}-{record['version']}-{record['build']}"
        paths = record["paths_data"]["paths"]
        return CondaPackage(
            name=record["name"],
            version=record["version"],
            sha256=record["sha256"],
            description=f"{channel}/{subdir}::{package}",
            entry_points=tuple(each["_path"] for each in paths if each.get("path_type") == _PYTHON_ENTRY_POINT),
            files=tuple(record["files"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise PrefixError(f"{path} is damaged: {error!r}", "envtool create --force makes the prefix anew") from error
