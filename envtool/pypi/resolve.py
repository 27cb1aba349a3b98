"""The choice of wheels for a target by uv.

A requirement without a wheel is an error, but for a git repository: its wheel is built beforehand
(`envtool.source_builds.git_wheels`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from envtool import paths
from envtool.errors import SolveError
from envtool.fetch import credentials, failover
from envtool.fetch.archive_cache import Cache
from envtool.lockfile.pylock import Wheel, format_pylock, parse_pylock
from envtool.mirrors import pip_index, selection
from envtool.mirrors.mirrors import Mirrors
from envtool.pypi import resolution
from envtool.pypi.distribution_names import Provided
from envtool.pypi.pins import Pins
from envtool.pypi.resolution import Resolution
from envtool.pypi.stand_ins import stand_in
from envtool.scratch import scratch_directory
from envtool.spec import pip_requirements as requirements
from envtool.spec import requirement_hashes as hashes
from envtool.spec.version_policy import VersionPolicy

# manylinux tags that uv knows as targets; a wheel for an older glibc runs on a newer one, never the reverse.
_UV_GLIBC_TARGETS = tuple((2, minor) for minor in (17, 28, *range(31, 41)))
_DEFAULT_GLIBC = "2.28"
_MACHINES = {"linux-64": "x86_64", "linux-aarch64": "aarch64"}
_UV_PLATFORMS = {
    "osx-64": "x86_64-apple-darwin",
    "osx-arm64": "aarch64-apple-darwin",
    "win-64": "x86_64-pc-windows-msvc",
}


@dataclass(frozen=True)
class Target:
    """The interpreter that the wheels are for (`glibc`: the declared `__glibc`, which bounds the manylinux tags)."""

    platform: str
    python_version: str
    glibc: str | None = None

    @property
    def uv_platform(self) -> str:
        """The target as uv's `--python-platform` names it."""
        machine = _MACHINES.get(self.platform)
        if machine is None:
            return _UV_PLATFORMS[self.platform]
        declared = tuple(int(part) for part in (self.glibc or _DEFAULT_GLIBC).split(".")[:2])
        fitting = [each for each in _UV_GLIBC_TARGETS if each <= declared] or [_UV_GLIBC_TARGETS[0]]
        return f"{machine}-manylinux_{fitting[-1][0]}_{fitting[-1][1]}"


@dataclass(frozen=True)
class WheelRequest:
    """What the `pip:` sections ask for on one platform.

    Args:
        provided: distributions that conda packages bring already, by name; they are neither asked for nor completed.
        index_url: the index that stands for the machine's default one.
        allows_default_index: whether an index counts that only the machine names, or nobody (the public one).
        requires_hashes: whether every wheel has to be pinned by a hash.
        keep: wheels that stay unless something asked for forbids it.
        built: the wheels of requirements that name a repository, and their files, by name.
        has_dependencies: whether what the requirements need is chosen as well.
    """

    target: Target
    requirements: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    provided: Mapping[str, Provided] = field(default_factory=dict)
    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    allows_default_index: bool = True
    allows_prereleases: bool = False
    requires_hashes: bool = False
    keep: tuple[Wheel, ...] = ()
    policy: VersionPolicy = field(default_factory=VersionPolicy)
    built: Mapping[str, tuple[Wheel, Path]] = field(default_factory=dict)
    is_pure: bool = False
    has_dependencies: bool = True


def choose(request: WheelRequest, mirrors: Mirrors) -> list[Wheel]:
    """Choose the wheels that satisfy requirements (`mirrors`: whose URLs are replaced by the canonical ones).

    Returns:
        The wheels, sorted by name.

    Raises:
        SolveError: Nothing satisfies the requirements; uv's own words.
    """
    is_open = request.allows_default_index or request.index_url is not None
    places = selection.index_candidates(request.index_url, mirrors) if is_open else (None,)
    reasons: list[str] = []
    for place in places:
        is_last = place == places[-1]
        variables = selection.index_limits(is_last, failover.configured_timeouts().read_timeout_s)
        try:
            return _choose_from(replace(request, index_url=place), mirrors, variables)
        except SolveError as error:
            reason = error.message
            if not reasons and (is_last or not selection.is_index_failure(reason)):
                raise
            reasons.append(f"  {credentials.strip(place or 'the public index')}: {reason.splitlines()[-1].strip()}")
            if not selection.is_index_failure(reason):
                break
    raise SolveError(
        f"{request.target.platform}: no package index has answered the pip section:\n" + "\n".join(reasons),
        "check the network and run again; envtool mirror probe finds places that work",
    )


def _choose_from(request: WheelRequest, mirrors: Mirrors, variables: Mapping[str, str]) -> list[Wheel]:
    lines = [_from_file(each, request.built) for each in request.requirements]
    known: dict[str, str] = {}  # the extras of what conda brings
    wanted: set[str] = set()
    with scratch_directory() as scratch:
        asked = Resolution(request, scratch, variables)
        while True:
            known.update(_extras(wanted & request.provided.keys() - known.keys(), request, asked, mirrors))
            wheels, reasons = _resolve(request, asked, lines, known)
            # Which extras are asked for on this target, by wheels among others, is seen in the answer only.
            wanted = resolution.with_extras(reasons) & request.provided.keys()
            if wanted <= known.keys():
                break
    needs = resolution.parse_reasons(reasons)
    urls = [each.url if each.built else pip_index.canonical(each.url, mirrors) for each in wheels]
    return [replace(each, url=url, needs=needs.get(each.name, ())) for each, url in zip(wheels, urls)]


def _extras(names: Collection[str], request: WheelRequest, asked: Resolution, mirrors: Mirrors) -> dict[str, str]:
    if not names:
        return {}
    from envtool.pypi.extras import extras_of  # brings what a download needs

    cache = Cache(paths.cache())
    return {name: extras_of(request.provided[name], asked, cache, mirrors) for name in sorted(names)}


def _resolve(
    request: WheelRequest, asked: Resolution, lines: Sequence[str], extras: Mapping[str, str]
) -> tuple[list[Wheel], str]:
    place = paths.cache() / "stand-ins"
    provided = sorted(request.provided.values(), key=lambda each: each.name)
    constraints = asked.bound(
        [requirements.expanded(hashes.split(each)[0]) for each in request.constraints],
        {stand_in(each, extras.get(each.name, ""), place): each for each in provided},
    )
    emitted = [part for each in provided for part in ("--no-emit-package", each.name)]
    kept = [each for each in request.keep if not each.built]
    text = asked.pylock(lines, emitted, constraints, format_pylock(kept) if kept else "")
    built = {name: wheel for name, (wheel, _) in request.built.items()}
    same = {each.sha256 for each in kept}
    pinned = ((requirements.name_of(each) or "", each) for each in (*request.requirements, *request.constraints))
    pins = Pins(pinned, Cache(paths.cache()), is_required=request.requires_hashes)
    wheels = parse_pylock(text, built, kept=same, is_pure=request.is_pure, pins=pins)
    # The second answer is the same resolution with the reasons, from uv's own cache; pylock.toml has no place
    # for them. Fixing the wheels of the first keeps the two equal even if the index changes in between.
    return wheels, asked.reasons(lines, [*constraints, *(f"{each.name}=={each.version}" for each in wheels)])


def _from_file(requirement: str, built: Mapping[str, tuple[Wheel, Path]]) -> str:
    found = built.get(requirements.name_of(requirement) or "")
    if found:
        return requirements.with_url(requirement, found[1].as_uri())
    return requirements.expanded(hashes.split(requirement)[0])
