"""From an environment specification to the packages of each platform: conda's by py-rattler, wheels by uv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from envtool import conda, wheels
from envtool.conda import PackageRecord
from envtool.errors import SolveError
from envtool.spec import EnvironmentSpec, PlatformSpec
from envtool.wheels import Target, Wheel

_CANONICAL_CHANNELS = "https://conda.anaconda.org"
_DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
# Distributions that go by another name on conda; everywhere else the names are the same.
_DISTRIBUTION_NAMES = {"pytorch": "torch", "pytorch-cpu": "torch", "pytorch-gpu": "torch"}


@dataclass(frozen=True)
class Solution:
    """The packages of one platform.

    Args:
        platform: The subdir.
        records: The conda packages, sorted by name.
        wheels: The wheels of the `pip:` section, sorted by name.
    """

    platform: str
    records: tuple[PackageRecord, ...]
    wheels: tuple[Wheel, ...]


def solve(spec: EnvironmentSpec, cache_dir: Path) -> list[Solution]:
    """Choose the packages of every platform, all platforms at once.

    Args:
        spec: What is asked for.
        cache_dir: Where repodata is kept between runs.

    Raises:
        SolveError: A platform cannot be satisfied; the reasons of all such platforms are in it.
    """
    channels = [url for channel in spec.channels for url in channel_urls(channel, spec.path.parent)]
    with ThreadPoolExecutor(len(spec.platforms)) as pool:
        futures = [pool.submit(_solve_platform, each, channels, cache_dir) for each in spec.platforms]
        errors = [error for each in futures if isinstance(error := each.exception(), SolveError)]
        if errors:
            raise SolveError("\n".join(error.message for error in errors), errors[0].hint)
        return [each.result() for each in futures]


def channel_urls(channel: str, base: Path) -> Sequence[str]:
    """The URLs of a channel as a user names it: a name, a URL or a path relative to the file that names it."""
    if channel == "defaults":
        return _DEFAULTS
    if "://" in channel:
        return (channel.rstrip("/"),)
    if channel.startswith((".", "/", "~")):
        return ((base / Path(channel).expanduser()).resolve().as_uri(),)
    return (f"{_CANONICAL_CHANNELS}/{channel}",)


def _solve_platform(spec: PlatformSpec, channels: Sequence[str], cache_dir: Path) -> Solution:
    match_specs = [dependency.text for dependency in spec.conda]
    virtual = spec.virtual_packages
    records = conda.solve(channels, match_specs, spec.platform, virtual, cache_dir)
    chosen: list[Wheel] = []
    if spec.pip:
        target = Target(spec.platform, _python_version(spec, records), virtual.get("__glibc"))
        chosen = wheels.choose([each.text for each in spec.pip], target, provided_distributions(records))
    return Solution(spec.platform, tuple(records), tuple(chosen))


def provided_distributions(records: Sequence[PackageRecord]) -> Mapping[str, str]:
    """The Python distributions that conda packages bring, name to version."""
    brought = (each for each in records if any(spec.split()[0] in ("python", "python_abi") for spec in each.depends))
    return {_DISTRIBUTION_NAMES.get(each.name, each.name): each.version for each in brought}


def _python_version(spec: PlatformSpec, records: Sequence[PackageRecord]) -> str:
    for record in records:
        if record.name == "python":
            return record.version
    raise SolveError(
        f"{spec.platform}: {spec.pip[0].place} starts a pip: section, but python is not among the packages",
        "add python=3.9 to the dependencies",
    )
