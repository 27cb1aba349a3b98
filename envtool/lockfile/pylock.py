"""pylock.toml (PEP 751): the wheels for one target; source distributions are not locked."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from envtool.errors import SolveError
from envtool.lockfile import model
from envtool.lockfile.model import SourceBuild, file_name_of

if TYPE_CHECKING:
    from envtool.pypi.resolve import Pins


class Wheel(NamedTuple):
    """One locked wheel."""

    name: str
    version: str
    url: str
    sha256: str
    size_bytes: int | None = None  # size of the file, where the index states it
    needs: tuple[str, ...] = ()  # the normalized names of the distributions that it needs on its target
    built: SourceBuild | None = None  # how it was made, if it is of a repository; then the URL is that of the commit


def parse_pylock(
    text: str,
    built: Mapping[str, Wheel] | None = None,
    *,
    kept: Collection[str] = (),
    is_pure: bool = False,
    pins: Pins | None = None,
) -> list[Wheel]:
    """The wheels of a pylock.toml that uv resolved for one target, sorted by name. Raises SolveError if a package is
    not a wheel, has no sha256, or none of its wheels is a pinned one.

    Args:
        built: wheels by name that uv was given as files.
        kept: the sha256 of files that are taken before a better one of the same version.
        is_pure: whether a wheel for every platform is wanted, and no other.
    """
    from envtool import toml

    packages: list[dict[str, Any]] = toml.loads(text).get("packages", [])
    given = built or {}
    wheels = (given.get(each["name"]) or _wheel(each, kept, is_pure=is_pure, pins=pins) for each in packages)
    return sorted(wheels, key=lambda wheel: wheel.name)


def format_pylock(wheels: Sequence[Wheel], requires_python: str | None = None) -> str:
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
            fields.append(f"hashes = {{ sha256 = {json.dumps(wheel.sha256)} }}")
            lines.append(f"wheels = [{{ {', '.join(fields)} }}]")
    return "\n".join(lines) + "\n"


def _wheel(package: Mapping[str, Any], kept: Collection[str], *, is_pure: bool, pins: Pins | None) -> Wheel:
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
    return Wheel(
        name=package["name"],
        version=str(package.get("version", "")) or file_name_of(source["url"]).split("-")[1],  # PEP 427, "File name"
        url=source["url"],
        sha256=source["hashes"]["sha256"],
        size_bytes=source.get("size"),
    )


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
