"""The choice of wheels for a target by uv; wheels of git repositories are built beforehand
(`envtool.solve.pip_solver`)."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from envtool import paths
from envtool.artifacts.download import SILENT
from envtool.errors import ProcessError, SolveError
from envtool.fetch import credentials, failover
from envtool.fetch.archive_cache import Cache, Wanted, update_from
from envtool.fetch.downloader import fetch
from envtool.lockfile.model import LockedPackage, file_name_of
from envtool.lockfile.pylock import format_pylock, parse_pylock
from envtool.mirrors import pip_index
from envtool.mirrors.mirrors import Mirrors
from envtool.pypi import uv
from envtool.pypi.distributions import Provided, extras_of, stand_in
from envtool.scratch import scratch_directory
from envtool.spec import pip_requirements
from envtool.spec.version_policy import VersionPolicy


class Pins:
    """The hashes that requirements, constraints among them, pin for distributions by normalized name; `is_required`
    refuses a file of which none is pinned, and the cache takes files of which the index does not state the pinned kind
    of hash."""

    def __init__(self, requirements: Iterable[tuple[str, str]], cache: Cache, *, is_required: bool = False) -> None:
        self._cache = cache
        self._is_required = is_required
        self._by_name: dict[str, list[frozenset[str]]] = {}
        for name, text in requirements:
            if hashes := pip_requirements.split_hashes(text)[1]:
                self._by_name.setdefault(name, []).append(hashes)

    def of(self, name: str) -> list[frozenset[str]]:
        """The hashes of each line that pins some for a distribution."""
        return self._by_name.get(name, [])

    def allow(self, name: str, file: Mapping[str, Any]) -> bool:
        """Whether a file of a pylock.toml is a pinned one, for which it may have to be downloaded."""
        pinned = self.of(name)
        if not pinned:
            return not self._is_required
        sha256 = file["hashes"]["sha256"]
        return all(f"sha256:{sha256}" in each or self._matches(each, file, sha256) for each in pinned)

    def _matches(self, hashes: frozenset[str], file: Mapping[str, Any], sha256: str) -> bool:
        others = [each for each in hashes if not each.startswith("sha256:")]
        if not others:
            return False
        wanted = Wanted(file_name_of(file["url"]), sha256, (file["url"],), file.get("size"))
        path = fetch([wanted], self._cache, SILENT)[wanted]
        for other in others:
            digest = hashlib.new(other.partition(":")[0], usedforsecurity=False)
            update_from(digest, path)
            if f"{digest.name}:{digest.hexdigest()}" == other:
                return True
        return False


_FOR_EVER = datetime(9000, 1, 1)


class Resolution:
    """Questions to uv about the wheels of one target."""

    def __init__(self, request: WheelRequest, scratch: Path, variables: Mapping[str, str]) -> None:
        self._request = request
        self._scratch = scratch
        self._variables = variables
        self._stand_ins: dict[str, Provided] = {}

    def bound(self, constraints: Sequence[str], stand_ins: Mapping[Path, Provided]) -> list[str]:
        """The constraints of the next answers: those given, and that what conda brings is chosen as it is."""
        self._stand_ins = {path.as_uri(): each for path, each in stand_ins.items()}
        return [*constraints, *(f"{each.name} @ {uri}" for uri, each in self._stand_ins.items())]

    def pylock(
        self, requirements: Sequence[str], options: Sequence[str], constraints: Sequence[str] = (), kept: str = ""
    ) -> str:
        """The chosen wheels as a pylock.toml. Raises SolveError with uv's own words."""
        locked = self._scratch / "pylock.toml"
        locked.unlink(missing_ok=True)
        if kept:
            locked.write_text(kept)  # uv prefers the versions that its output file has
        self._compile(requirements, ["--format", "pylock.toml", "--output-file", str(locked), *options], constraints)
        return locked.read_text(encoding="utf-8")

    def reasons(self, requirements: Sequence[str], constraints: Sequence[str]) -> str:
        """The same wheels as requirements, each with what needs it and with the extras that are asked for."""
        options = ["--format", "requirements.txt", "--annotation-style", "line", "--no-strip-extras"]
        return self._compile(requirements, options, constraints)

    def _compile(self, requirements: Sequence[str], options: Sequence[str], constraints: Sequence[str]) -> str:
        request, scratch = self._request, self._scratch
        target, policy = request.target, request.policy
        for name, lines in (("requirements.in", requirements), ("constraints.txt", constraints)):
            (scratch / name).write_text("".join(f"{line}\n" for line in lines))
        argv = ["pip", "compile", "--quiet", "--no-header", "--only-binary", ":all:", *options]
        argv += ["--python", sys.executable, "--python-version", target.python_version]
        argv += ["--python-platform", target.uv_platform, "--constraints", str(scratch / "constraints.txt")]
        argv += ["--resolution", policy.strategy]
        if policy.exclude_newer:
            argv += ["--exclude-newer", _rfc3339(policy.exclude_newer)]
        for name, moment in policy.of_packages.items():
            argv += ["--exclude-newer-package", f"{name}={_rfc3339(moment or _FOR_EVER)}"]
        if not request.has_dependencies:
            argv.append("--no-deps")
        if not (request.allows_default_index or request.index_url or request.extra_index_urls):
            argv.append("--no-index")
        if request.allows_prereleases:
            argv += ["--prerelease", "allow"]
        indexes = pip_index.index_variables if request.allows_default_index else pip_index.only
        variables = {**indexes(request.index_url, request.extra_index_urls), **self._variables}
        try:
            return uv.run([*argv, str(scratch / "requirements.in")], env=variables, cwd=scratch)
        except ProcessError as error:
            if not request.allows_default_index:
                hint = "allow-pypi-requests is false: only the indexes that environment.yml names were asked"
            elif "error sending request" in error.output or "dns error" in error.output:
                hint = "the package index cannot be reached; set PIP_INDEX_URL or UV_DEFAULT_INDEX to one that can"
            else:
                hint = "change the versions in the pip: section of environment.yml"
            message = f"{target.platform}: the pip section cannot be satisfied:\n{self._in_our_words(error.output)}"
            raise SolveError(message, hint) from error

    def _in_our_words(self, output: str) -> str:
        named = set(re.findall(r"[a-z0-9][a-z0-9-]*", output.lower()))
        for uri, each in self._stand_ins.items():
            output = output.replace(uri, f"the conda package {each.record.name} {each.record.version}")
        brought = [each for each in self._stand_ins.values() if each.name in named]
        return output + "".join(
            f"\n{each.name} {each.version} is brought by the conda package {each.record.name}" for each in brought
        )


def parse_reasons(text: str) -> dict[str, tuple[str, ...]]:
    """What each distribution needs, from uv's annotated requirements (`click==8.1.8  # via flask`)."""
    needs: dict[str, set[str]] = {}
    for line in text.splitlines():
        requirement, marked, reasons = line.partition("# via ")
        name = re.split(r"[=@\s;\[]", requirement.strip(), maxsplit=1)[0]
        for reason in reasons.split(",") if marked and name else ():
            if re.fullmatch(r"[a-z0-9-]+", parent := re.sub(r"\[.*\]", "", reason.strip())):
                needs.setdefault(parent, set()).add(name)
    return {parent: tuple(sorted(names)) for parent, names in needs.items()}


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# manylinux tags that uv knows as targets; a wheel for an older glibc runs on a newer one, never the reverse.
_UV_GLIBC_TARGETS = tuple((2, minor) for minor in (17, 28, *range(31, 41)))
_DEFAULT_GLIBC = "2.28"
_MACHINES = {"linux-64": "x86_64", "linux-aarch64": "aarch64"}
_UV_PLATFORMS = {
    "osx-64": "x86_64-apple-darwin",
    "osx-arm64": "aarch64-apple-darwin",
    "win-64": "x86_64-pc-windows-msvc",
}


class Target(NamedTuple):
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
    """What the `pip:` sections ask for on one platform."""

    target: Target
    requirements: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    # distributions that conda packages bring already, by name; they are neither asked for nor completed
    provided: Mapping[str, Provided] = field(default_factory=dict)
    index_url: str | None = None  # the index that stands for the machine's default one
    extra_index_urls: tuple[str, ...] = ()
    allows_default_index: bool = True  # whether an index counts that only the machine names, or nobody (the public one)
    allows_prereleases: bool = False
    requires_hashes: bool = False  # whether every wheel has to be pinned by a hash
    keep: tuple[LockedPackage, ...] = ()  # wheels that stay unless something asked for forbids it
    policy: VersionPolicy = field(default_factory=VersionPolicy)
    # the wheels of requirements that name a repository, and their files, by name
    built: Mapping[str, tuple[LockedPackage, Path]] = field(default_factory=dict)
    is_pure: bool = False
    has_dependencies: bool = True  # whether what the requirements need is chosen as well


def choose(request: WheelRequest, mirrors: Mirrors) -> list[LockedPackage]:
    """Choose the wheels that satisfy requirements, sorted by name. Raises SolveError in uv's own words."""
    is_open = request.allows_default_index or request.index_url is not None
    places = pip_index.index_candidates(request.index_url, mirrors) if is_open else (None,)
    reasons: list[str] = []
    for place in places:
        # As long as there is another one to ask, uv gives up on an index soon.
        is_last, read_timeout_s = place == places[-1], failover.configured_timeouts().read_timeout_s
        variables = {"UV_HTTP_TIMEOUT": f"{max(1, round(read_timeout_s))}", "UV_HTTP_RETRIES": "1"}
        try:
            return _choose_from(replace(request, index_url=place), mirrors, {} if is_last else variables)
        except SolveError as error:
            reason = error.message
            if not reasons and (is_last or not pip_index.is_index_failure(reason)):
                raise
            reasons.append(f"  {credentials.strip(place or 'the public index')}: {reason.splitlines()[-1].strip()}")
            if not pip_index.is_index_failure(reason):
                break
    message = f"{request.target.platform}: no package index has answered the pip section:\n" + "\n".join(reasons)
    raise SolveError(message, "check the network and run again; envtool mirror probe finds places that work")


def _choose_from(request: WheelRequest, mirrors: Mirrors, variables: Mapping[str, str]) -> list[LockedPackage]:
    lines = []
    for each in request.requirements:
        made = request.built.get(pip_requirements.name_of(each) or "")
        bare = pip_requirements.split_hashes(each)[0]
        lines.append(pip_requirements.with_url(each, made[1].as_uri()) if made else pip_requirements.expanded(bare))
    known: dict[str, str] = {}  # the extras of what conda brings
    wanted: set[str] = set()
    with scratch_directory() as scratch:
        asked = Resolution(request, scratch, variables)
        while True:
            for name in sorted(wanted - known.keys()):
                known[name] = extras_of(request.provided[name], asked, Cache(paths.cache()), mirrors)
            wheels, reasons = _resolve(request, asked, lines, known)
            # Which extras are asked for on this target, by wheels among others, is seen in the answer only.
            wanted = set(re.findall(r"^([a-z0-9-]+)\[", reasons, re.MULTILINE)) & request.provided.keys()
            if wanted <= known.keys():
                break
    needs = parse_reasons(reasons)
    edges = [dict.fromkeys(needs.get(each.name, ()), "*") for each in wheels]
    urls = [each.url if each.built else pip_index.canonical(each.url, mirrors) for each in wheels]
    return [replace(each, url=url, dependencies=needed) for each, url, needed in zip(wheels, urls, edges)]


def _resolve(
    request: WheelRequest, asked: Resolution, lines: Sequence[str], extras: Mapping[str, str]
) -> tuple[list[LockedPackage], str]:
    place = paths.cache() / "stand-ins"
    provided = sorted(request.provided.values(), key=lambda each: each.name)
    constraints = asked.bound(
        [pip_requirements.expanded(pip_requirements.split_hashes(constraint)[0]) for constraint in request.constraints],
        {stand_in(each, extras.get(each.name, ""), place): each for each in provided},
    )
    emitted = [part for each in provided for part in ("--no-emit-package", each.name)]
    kept = [each for each in request.keep if not each.built]
    text = asked.pylock(lines, emitted, constraints, format_pylock(kept) if kept else "")
    built = {name: wheel for name, (wheel, _) in request.built.items()}
    same = {each.sha256 for each in kept}
    pinned = ((pip_requirements.name_of(each) or "", each) for each in (*request.requirements, *request.constraints))
    pins = Pins(pinned, Cache(paths.cache()), is_required=request.requires_hashes)
    wheels = parse_pylock(text, built, kept=same, is_pure=request.is_pure, pins=pins)
    # The second answer is the same resolution with the reasons, from uv's own cache; pylock.toml has no place
    # for them. Fixing the wheels of the first keeps the two equal even if the index changes in between.
    return wheels, asked.reasons(lines, [*constraints, *(f"{each.name}=={each.version}" for each in wheels)])
