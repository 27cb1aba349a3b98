"""Formats of conda: an `@EXPLICIT` file (source: conda/misc.py), a pinned environment.yml, the conda part of a lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from envtool.lockfile.conda_lock_v1 import INPUTS_KEY, LockedPackage, Lockfile, read_json_metadata
from envtool.lockfile.model import is_repository
from envtool.prefix.rattler import link_order
from envtool.yaml_document import dump


def explicit(packages: Sequence[LockedPackage], platform: str, *, with_sha256: bool) -> str:
    """The file, in an order in which every package comes after what it needs."""
    lines = ["# Written by envtool. Wheels are in comments: conda leaves them out.", f"# platform: {platform}"]
    lines.append("@EXPLICIT")
    for each in in_order([each for each in packages if each.manager == "conda"]):
        digits = each.sha256 if with_sha256 else each.md5
        lines.append(f"{each.url}#{digits or each.sha256 or each.md5}")
    for package in packages:
        if package.manager == "pip":
            # pip takes no hash for a repository; the commit stands for it.
            proof = "" if is_repository(package.url) else f" --hash=sha256:{package.sha256}"
            lines.append(f"# pip {package.name} @ {package.url}{proof}")
    return "\n".join(lines) + "\n"


def in_order(packages: Sequence[LockedPackage]) -> list[LockedPackage]:
    """The packages with what each needs before it, in the order in which py-rattler links them."""
    by_name = {each.name: each for each in packages}
    return [by_name[name] for name in link_order({name: list(each.dependencies) for name, each in by_name.items()}, ())]


_PUBLIC = "https://conda.anaconda.org/"


def environment_yml(
    lockfile: Lockfile, packages: Sequence[LockedPackage], name: str | None, variables_key: str, *, with_builds: bool
) -> str:
    """A pinned environment.yml of one platform, which builds make exact and bound to the platform."""
    dependencies: list[Any] = [_match_spec(package, with_builds) for package in packages if package.manager == "conda"]
    wheels = [
        f"{each.name} @ {each.url}" if is_repository(each.url) else f"{each.name}=={each.version}"
        for each in packages if each.manager == "pip"
    ]  # fmt: skip
    if wheels:
        dependencies.append({"pip": wheels})
    value: dict[str, Any] = {"name": name} if name else {}
    value["channels"] = [*lockfile.channels, *([] if "defaults" in lockfile.channels else ["nodefaults"])]
    value["dependencies"] = dependencies
    variables = read_json_metadata(lockfile, variables_key)
    if variables:
        value["variables"] = variables
    return dump(value)


def conda_only(lockfile: Lockfile) -> Lockfile:
    """The lock without its wheels, for readers that refuse them; it no longer has what the sources asked for."""
    metadata = {key: value for key, value in lockfile.custom_metadata.items() if key != INPUTS_KEY}
    packages = tuple(package for package in lockfile.packages if package.manager == "conda")
    return replace(lockfile, packages=packages, custom_metadata=metadata)


def _match_spec(package: LockedPackage, with_builds: bool) -> str:
    # The channel is written wherever it has a name: conda would otherwise take the first channel that has the version.
    channel = package.url[len(_PUBLIC) :].rsplit("/", 2)[0] if package.url.startswith(_PUBLIC) else ""
    prefix = f"{channel}::" if channel else ""
    build = f"={package.build_string}" if with_builds else ""
    return f"{prefix}{package.name}={package.version}{build}"
