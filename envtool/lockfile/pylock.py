"""pylock.toml (PEP 751): the wheels for one target; source distributions are not locked."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from envtool.errors import SolveError
from envtool.lockfile import model
from envtool.lockfile.model import LockedPackage, file_name_of

if TYPE_CHECKING:
    from envtool.pypi.resolve import Pins


def parse_pylock(
    text: str, built: Mapping[str, LockedPackage] | None = None, *, kept: Collection[str | None] = (),
    is_pure: bool = False, pins: Pins | None = None,
) -> list[LockedPackage]:  # fmt: skip
    """The wheels of a pylock.toml that uv resolved for one target, sorted by name; `built` are wheels that uv was given
    as files, `kept` the sha256 of files to be preferred, and `is_pure` wants wheels for every platform alone. Raises
    SolveError if a package is not a wheel, has no sha256, or none of its wheels is a pinned one."""
    from envtool import toml

    packages: list[dict[str, Any]] = toml.loads(text).get("packages", [])
    given = built or {}
    wheels = (given.get(each["name"]) or _wheel(each, kept, is_pure=is_pure, pins=pins) for each in packages)
    return sorted(wheels, key=lambda wheel: wheel.name)


def format_pylock(wheels: Sequence[LockedPackage], requires_python: str | None = None) -> str:
    """A pylock.toml with these wheels, for the interpreters of `requires_python`; equal values give equal bytes."""
    lines = ['lock-version = "1.0"', 'created-by = "envtool"']
    if requires_python:
        lines.append(f"requires-python = {json.dumps(requires_python)}")
    for wheel in sorted(wheels, key=lambda each: each.name):
        lines += ["", "[[packages]]", f"name = {json.dumps(wheel.name)}", f"version = {json.dumps(wheel.version)}"]
        if model.is_repository(wheel.url):
            # Source: PEP 751, "packages.vcs".
            source = model.parse_repository(wheel.url)
            fields = ['type = "git"', f"url = {json.dumps(source.shown)}", f"commit-id = {json.dumps(source.revision)}"]
            fields += [f"subdirectory = {json.dumps(source.subdirectory)}"] if source.subdirectory else []
            lines.append(f"vcs = {{ {', '.join(fields)} }}")
        else:
            fields = [f"name = {json.dumps(file_name_of(wheel.url))}", f"url = {json.dumps(wheel.url)}"]
            fields += [] if wheel.size_bytes is None else [f"size = {wheel.size_bytes}"]
            fields.append(f"hashes = {{ sha256 = {json.dumps(wheel.sha256 or '')} }}")
            lines.append(f"wheels = [{{ {', '.join(fields)} }}]")
    return "\n".join(lines) + "\n"


def _wheel(
    package: Mapping[str, Any], kept: Collection[str | None], *, is_pure: bool, pins: Pins | None
) -> LockedPackage:
    # uv writes only the wheels that fit the target, the best one first.
    fitting = package.get("wheels", ())
    if is_pure:
        fitting = [each for each in fitting if unquote(each["url"]).endswith("-none-any.whl")]
    files = [package["archive"]] if "archive" in package else fitting
    proven = [each for each in files if "url" in each and "sha256" in each.get("hashes", {})]
    proven.sort(key=lambda each: each["hashes"]["sha256"] not in kept)  # the others stay in uv's order
    if not proven:
        raise SolveError(
            f"{package['name']} has no wheel with a sha256" + (" that is pure Python" if is_pure else ""),
            "a build gives other bytes on every machine: name a version, or the URL of a file, that is a wheel",
        )
    source = next((each for each in proven if pins is None or pins.allow(package["name"], each)), None)
    if source is None:
        raise _not_pinned(package, proven, pins)
    version = str(package.get("version", "")) or file_name_of(source["url"]).split("-")[1]  # PEP 427, "File name"
    found = LockedPackage("pip", package["name"], version, "", source["url"], source["hashes"]["sha256"])
    return replace(found, size_bytes=source.get("size"))


def _not_pinned(package: Mapping[str, Any], files: Sequence[Mapping[str, Any]], pins: Pins | None) -> SolveError:
    lines = pins.of(package["name"]) if pins else []
    expected = "" if lines else "\n  expected one, since --require-hashes is among the lines of the pip section"
    expected += "".join(f"\n  expected {' or '.join(sorted(each))}" for each in lines)
    found = "".join(f"\n  found    sha256:{each['hashes']['sha256']} ({file_name_of(each['url'])})" for each in files)
    return SolveError(
        f"{package['name']} {package.get('version', '')} has no wheel for this platform with a pinned hash:"
        f"{expected}{found}",
        "was the file replaced, or is the hash another file's? pip hash FILE tells the hash of one that you trust",
    )
