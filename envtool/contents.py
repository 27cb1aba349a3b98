"""What a prefix should contain, as its packages declare it: conda-meta for archives, RECORD for wheels."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from envtool.errors import PrefixError
from envtool.inventory import Placeholder

_PYTHON_ENTRY_POINT = "unix_python_entry_point"


@dataclass(frozen=True)
class Declared:
    """One file as a package declares it.

    Args:
        package: `name version` of the package that brings it.
        sha256: Hash of its content with the placeholder in it, None where the package states none.
        placeholder: What stands in place of the prefix, None where nothing does.
    """

    package: str
    sha256: str | None
    placeholder: Placeholder | None = None


@dataclass(frozen=True)
class CondaPackage:
    """One record of conda-meta.

    Args:
        name: The package.
        version: Its version.
        sha256: The hash of its archive.
        description: `channel/subdir::name-version-build`, as conda's history names it.
        files: What it declares, path to file.
    """

    name: str
    version: str
    sha256: str
    description: str
    files: Mapping[str, Declared]


def conda_packages(prefix: Path) -> list[CondaPackage]:
    """The conda packages of a prefix.

    Raises:
        PrefixError: A record of conda-meta is damaged.
    """
    return [_conda_package(path) for path in sorted((prefix / "conda-meta").glob("*.json"))]


def wheel_files(prefix: Path, names: Mapping[str, str]) -> dict[str, Declared]:
    """The files of the wheels that are installed in a prefix.

    Args:
        prefix: The prefix.
        names: The distributions to look at, normalized name to version.

    Returns:
        Path to file. Wheels that are not there bring nothing.
    """
    files: dict[str, Declared] = {}
    for site_packages in (prefix / "lib").glob("python3.*/site-packages"):
        for name, version in names.items():
            stem = name.replace("-", "_")
            for record in site_packages.glob("*.dist-info/RECORD"):
                if distribution(record.parent) == (stem, version):
                    files.update(_recorded(prefix, record, f"{name} {version}"))
    return files


def distribution(dist_info: Path) -> tuple[str, str]:
    """Name (lower case, with underscores) and version of a `.dist-info` directory."""
    name, _, version = dist_info.name[: -len(".dist-info")].rpartition("-")
    return name.lower().replace("-", "_").replace(".", "_"), version


def _conda_package(path: Path) -> CondaPackage:
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        package = f"{record['name']} {record['version']}"
        channel, subdir, _ = record["url"].rsplit("/", 2)
        return CondaPackage(
            name=record["name"],
            version=record["version"],
            sha256=record["sha256"],
            description=f"{channel.rpartition('/')[2]}/{subdir}::{record['name']}-{record['version']}-{record['build']}",
            files={each["_path"]: _declared(package, each) for each in record["paths_data"]["paths"]},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise PrefixError(f"{path} is damaged: {error!r}", "envtool create --force makes the prefix anew") from error


def _declared(package: str, path: Mapping[str, Any]) -> Declared:
    placeholder = None
    if path.get("prefix_placeholder"):
        placeholder = Placeholder(path["prefix_placeholder"].encode(), path.get("file_mode") == "binary")
    # An entry point is written while linking, so that its hash depends on the prefix and stands in no archive.
    is_generated = path.get("path_type") == _PYTHON_ENTRY_POINT
    return Declared(package, None if is_generated else path.get("sha256"), placeholder)


def _recorded(prefix: Path, record: Path, package: str) -> Iterator[tuple[str, Declared]]:
    site_packages = PurePosixPath(record.parent.parent.relative_to(prefix))
    with record.open(newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            path = _normal(site_packages / row[0])
            algorithm, _, digits = row[1].partition("=")
            # Scripts outside of site-packages name the prefix, which RECORD's hash includes and ours leaves out.
            is_rewritten = row[0].startswith("../")
            known = algorithm == "sha256" and not is_rewritten
            yield path, Declared(package, _hex(digits) if known else None)


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _hex(digits: str) -> str:
    return base64.urlsafe_b64decode(digits + "=" * (-len(digits) % 4)).hex()
