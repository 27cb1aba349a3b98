"""The packages of a prefix as they are found in it, whoever put them there, and what is noted of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from envtool.errors import PrefixError
from envtool.inspect_lock.package_metadata import PackageMetadata
from envtool.lockfile.model import LockedPackage, Lockfile
from envtool.wheels.license import known_license, license_of

Found = tuple[LockedPackage, PackageMetadata]


def found_packages(prefix: Path) -> list[Found]:
    """The conda packages and the distributions of a prefix; those that a conda package brings, count as that one.
    Raises PrefixError if it is no environment, or a record of it is damaged."""
    if not (prefix / "conda-meta").is_dir():
        raise PrefixError(f"{prefix} has no conda-meta", "name a conda environment")
    found, brought = [], set()
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        try:
            record = json.loads(path.read_bytes())
            found.append(_conda(record))
            brought.update(record["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise PrefixError(f"{path} is damaged: {error!r}") from error
    for path in sorted(prefix.glob("lib/python3*/site-packages/*.dist-info/METADATA")):
        if str(path.relative_to(prefix)) not in brought:
            found.append(_wheel(path.read_text(encoding="utf-8", errors="replace")))
    return found


def lock_of(found: list[Found]) -> Lockfile:
    """What is found as a lock that names no sources; its platform is empty."""
    return Lockfile(tuple(package for package, _ in found), (), ("",), (), {})


def metadata_of(found: list[Found], packages: tuple[LockedPackage, ...]) -> Mapping[str, PackageMetadata]:
    """What is noted in a prefix of the packages of a lock, by URL."""
    noted = {(package.manager, package.name): metadata for package, metadata in found}
    return {each.url: noted.get((each.manager, each.name), PackageMetadata()) for each in packages}


def _conda(record: Mapping[str, Any]) -> Found:
    needed = dict((*each.split(), "*")[:2] for each in record.get("depends", ()))
    package = LockedPackage(
        "conda", record["name"], record["version"], "", record["url"], record.get("sha256"), record.get("md5"), needed,
        build=record["build"], size_bytes=record.get("size"),
    )  # fmt: skip
    return package, PackageMetadata(record.get("size"), known_license(record.get("license")))


def _wheel(text: str) -> Found:
    headers = HeaderParser().parsestr(text)
    needed = dict(_needed(headers.get_all("Requires-Dist", [])))
    name = canonicalize_name(str(headers["Name"]))
    return LockedPackage("pip", name, str(headers["Version"]), "", "", None, None, needed), PackageMetadata(
        license=license_of(text)
    )


def _needed(lines: list[Any]) -> Iterator[tuple[str, str]]:
    for line in lines:
        try:
            each = Requirement(str(line))
        except InvalidRequirement:
            continue  # older tools wrote what no standard reads
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            yield canonicalize_name(each.name), str(each.specifier) or "*"
