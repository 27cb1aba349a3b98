"""From an environment specification to the packages of each platform: conda's by py-rattler, wheels by uv.

A channel has to be among those of environment.yml, by name, by URL or by the end of the URL.
Source: CEP 29, "MatchSpec"; conda/models/channel.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from envtool.errors import Issue, SolveError, SpecError, UnsatisfiableError
from envtool.fetch import credentials
from envtool.lockfile.model import file_parts
from envtool.solve import conda_solver
from envtool.solve.conda_solver import PackageRecord, Repodata, SolveRequest
from envtool.solve.solution import Preference, Solution, SolveErrors, Sources, hold_most
from envtool.spec.environment import Dependency, EnvironmentSpec, PlatformSpec, package_name
from envtool.spec.version_policy import VersionPolicy

CANONICAL_CHANNELS = "https://conda.anaconda.org"
DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
_PREFIX = re.compile(r"^(?P<channel>[^\s\[]+?)?::|^(?P<with_namespace>[^\s:\[=]+):[^\s:\[=]*:(?=\w)")
_KEY = re.compile(r"""(?P<key>channel|subdir)\s*=\s*(?P<quote>["']?)(?P<value>[^"',\]\s]+)(?P=quote)\s*,?\s*""")
_BRACKET = re.compile(r"\[[^\]]*\]\s*$")
_SUBDIR = re.compile(r"noarch|(linux|osx|win|freebsd|emscripten|wasi|zos)-[a-z0-9]+")


@dataclass(frozen=True)
class Restricted:
    """A match spec taken apart (`channel`: the channel as it is written, None where none is)."""

    text: str
    channel: str | None = None
    subdir: str | None = None

    def in_channel(self, url: str | None) -> str:
        """The match spec as the solver takes it (`url`: the URL of the channel, None for any)."""
        if url is None:
            return self.text
        key = f'channel="{url}"'
        return f"{self.text[:-1].rstrip()}, {key}]" if self.text.endswith("]") else f"{self.text}[{key}]"


def parse(match_spec: str) -> Restricted:
    """Take a match spec apart."""
    prefix = _PREFIX.match(match_spec.strip())
    text = match_spec.strip()[prefix.end() :] if prefix else match_spec.strip()
    channel = (prefix["channel"] or prefix["with_namespace"]) if prefix else None
    bracket = _BRACKET.search(text)
    keys = {each["key"]: each["value"] for each in _KEY.finditer(bracket[0])} if bracket else {}
    if bracket and keys:
        left = _KEY.sub("", bracket[0]).strip().rstrip(",] ")
        text = text[: bracket.start()].rstrip() + (f"{left.rstrip(', ')}]" if left != "[" else "")
    channel = (channel or keys.get("channel") or "").rstrip("/") or None
    head, _, last = (channel or "").rpartition("/")
    subdir = keys.get("subdir")
    if head and _SUBDIR.fullmatch(last):
        channel, subdir = head, subdir or last
    return Restricted(text, None if channel == "*" else channel, subdir)


def channel_urls(channel: str, base: Path) -> Sequence[str]:
    """The URLs of a channel as a user names it: a name, a URL or a path relative to the file that names it."""
    if channel == "defaults":
        return DEFAULTS
    if "://" in channel:
        return (channel.rstrip("/"),)
    if channel.startswith((".", "/", "~")):
        return ((base / Path(channel).expanduser()).resolve().as_uri(),)
    if channel.startswith("pkgs/"):
        return (f"{DEFAULTS[0].rpartition('/pkgs/')[0]}/{channel}",)
    return (f"{CANONICAL_CHANNELS}/{channel}",)


def find_channel(restricted: Restricted, name: str, channels: Sequence[str], base: Path) -> str | None:
    """The URL of the listed channel that a match spec names, None where it is not listed.

    Args:
        name: its package, which tells where it is in a channel that is several.
        base: the directory that channels that are paths are relative to.
    """
    wanted = restricted.channel or ""
    listed = [url for channel in channels for url in channel_urls(channel, base)]
    same = [url for url in channel_urls(wanted, base) if url in listed]
    if len(same) > 1:
        is_r = name in ("r", "rstudio") or name.startswith(("r-", "_r-"))
        return same[is_r]
    if same or "://" in wanted:
        return next(iter(same), None)
    # A channel with a URL of its own is known by the end of it as well.
    named = [url for url in listed if f"/{urlsplit(url).path.strip('/')}".endswith(f"/{wanted}")]
    return next(iter(named), None)


def solve(
    spec: EnvironmentSpec, sources: Sources, policy: VersionPolicy, preferences: Mapping[str, Preference] | None = None
) -> list[Solution]:
    """Choose the packages of every platform, all platforms at once.

    Raises:
        SpecError: A match spec cannot be parsed.
        SolveError: A platform cannot be satisfied; the reasons of all such platforms are in it.
    """
    refuse_malformed(spec)
    preferred = preferences or {}
    requests = [_request(spec, each, policy, preferred.get(each.platform, Preference())) for each in spec.platforms]
    answers = _with_fewest_moves(requests, sources.repodata)
    errors = [each for each in answers if isinstance(each, SolveError)]
    if errors:
        raise errors[0] if len(errors) == 1 else SolveErrors(errors)
    found = [each for each in answers if not isinstance(each, SolveError)]
    solutions = [Solution(each.platform, tuple(records)) for each, records in zip(spec.platforms, found)]
    if not any(each.pip for each in spec.platforms):
        return solutions
    from envtool.solve import pip_solver  # brings uv, and what downloads need

    return pip_solver.add_wheels(spec, solutions, sources, policy, preferred)


def refuse_malformed(spec: EnvironmentSpec) -> None:
    """Raise a `SpecError` that names every line that is not a valid match spec, or whose channel is not listed."""
    lines = dict.fromkeys(dependency for platform in spec.platforms for dependency in platform.conda)
    problems = {each: _problem(spec, each) for each in lines}
    issues = [Issue(each.place, why) for each, why in problems.items() if why]
    if issues:
        names = ", ".join(str(path) for path in spec.paths)
        raise SpecError(names, list(dict.fromkeys(issues)), "python=3.9, numpy>=1.26,<2 and pytorch::pytorch are some")


def _problem(spec: EnvironmentSpec, line: Dependency) -> str | None:
    parsed = parse(line.text)
    reason = conda_solver.match_spec_problem(parsed.text)
    if reason:
        return f"{line.text!r} is not a valid match spec: {reason}"
    if parsed.channel and _channel(spec, line.text) is None:
        listed = ", ".join(map(credentials.strip, spec.channels))
        shown = credentials.strip(parsed.channel)
        return (
            f"{package_name(line.text)} is wanted from the channel {shown}, which is not among the channels: {listed}"
        )
    return None


def _channel(spec: EnvironmentSpec, match_spec: str) -> str | None:
    name = package_name(match_spec) or ""
    return find_channel(parse(match_spec), name, spec.channels, spec.directory)


def _for_solver(spec: EnvironmentSpec, match_spec: str) -> str:
    parsed = parse(match_spec)
    url = _channel(spec, match_spec) if parsed.channel else None
    return parsed.in_channel(url and credentials.expand(url))


def repodata_urls(spec: EnvironmentSpec) -> list[str]:
    """A file of each channel and platform that has to be read, by which mirrors are chosen."""
    return [f"{url}/{each.platform}/repodata.json" for url in channels_of(spec) for each in spec.platforms]


def channels_of(spec: EnvironmentSpec) -> tuple[str, ...]:
    """The URLs of the channels, with the values of the variables in them."""
    urls = (url for channel in spec.channels for url in channel_urls(channel, spec.directory))
    return tuple(credentials.expand(url) for url in urls)


def _with_fewest_moves(requests: Sequence[SolveRequest], repodata: Repodata) -> list[list[PackageRecord] | SolveError]:
    """The answers that move the fewest of the archives that are to be kept."""
    answers = repodata.solve([_holding(each, each.keep) for each in requests])
    return [
        _moving_least(request, answer, repodata) if request.keep and isinstance(answer, UnsatisfiableError) else answer
        for request, answer in zip(requests, answers)
    ]


def _moving_least(request: SolveRequest, refused: SolveError, repodata: Repodata) -> list[PackageRecord] | SolveError:
    latest: list[PackageRecord] | SolveError = refused

    def attempts(selections: Sequence[Sequence[str]]) -> list[list[PackageRecord] | None]:
        nonlocal latest
        answers = repodata.solve([_holding(request, urls) for urls in selections])
        latest = answers[-1] if answers else latest
        return [None if isinstance(each, SolveError) else each for each in answers]

    def stays(url: str, records: list[PackageRecord]) -> bool:
        return url in {each.url for each in records}

    asked = {package_name(each) for each in request.match_specs}
    important = [each for each in request.keep if file_parts(each)[0] in asked]
    others = [each for each in request.keep if each not in important]
    found = hold_most(important, others, attempts, stays)
    return latest if found is None else found


def _holding(request: SolveRequest, urls: Sequence[str]) -> SolveRequest:
    held = ("{}[version='=={}',build='{}']".format(*file_parts(each)) for each in urls)
    return replace(request, constraints=(*request.constraints, *held)) if urls else request


def _request(
    spec: EnvironmentSpec, platform: PlatformSpec, policy: VersionPolicy, preference: Preference
) -> SolveRequest:
    subdirs = ((package_name(each.text) or "", parse(each.text).subdir) for each in platform.conda)
    return SolveRequest(
        platform=platform.platform,
        channels=channels_of(spec),
        # Sorted, so that the order of the lines never decides between two solutions that are equally good.
        match_specs=tuple(sorted({_for_solver(spec, each.text) for each in platform.conda})),
        subdirs=tuple(sorted({(name, subdir) for name, subdir in subdirs if subdir})),
        virtual_packages=platform.virtual_packages,
        constraints=preference.constraints,
        keep=preference.keep,
        policy=policy,
    )
