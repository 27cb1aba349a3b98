"""The conda packages of a prefix, as its conda-meta names them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envtool.errors import PrefixError

_PYTHON_ENTRY_POINT = "unix_python_entry_point"


@dataclass(frozen=True)
class CondaPackage:
    """One record of conda-meta.

    Args:
        name: The package.
        version: Its version.
        sha256: The hash of its archive.
        description: `channel/subdir::name-version-build`, as conda's history names it.
        entry_points: The scripts that linking generated, which stand in no archive.
    """

    name: str
    version: str
    sha256: str
    description: str
    entry_points: tuple[str, ...]


def conda_packages(prefix: Path) -> list[CondaPackage]:
    """The conda packages of a prefix.

    Raises:
        PrefixError: A record of conda-meta is damaged.
    """
    return [_conda_package(path) for path in sorted((prefix / "conda-meta").glob("*.json"))]


def _conda_package(path: Path) -> CondaPackage:
    try:
        record: Mapping[str, Any] = json.loads(path.read_bytes())
        channel, subdir, _ = record["url"].rsplit("/", 2)
        paths = record["paths_data"]["paths"]
        return CondaPackage(
            name=record["name"],
            version=record["version"],
            sha256=record["sha256"],
            description=f"{channel.rpartition('/')[2]}/{subdir}::{record['name']}-{record['version']}-{record['build']}",
            entry_points=tuple(each["_path"] for each in paths if each.get("path_type") == _PYTHON_ENTRY_POINT),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise PrefixError(f"{path} is damaged: {error!r}", "envtool create --force makes the prefix anew") from error
