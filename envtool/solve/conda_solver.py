"""The door to py-rattler for choosing packages: plain values go in and out, so that nothing else depends on its version
(0.25 on Python 3.9). The process has to end through `envtool.__main__`, since py-rattler may crash in shutdown. A
record's time is its `indexed_timestamp`, set by the channel's server, or else its builder's `timestamp` (CEP 47)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from envtool import paths
from envtool.errors import EnvtoolError, SolveError, UnsatisfiableError
from envtool.fetch import credentials
from envtool.lockfile.model import LockedPackage, file_parts
from envtool.mirrors import mirrors as mirrors_module
from envtool.mirrors.mirrors import Mirrors
from envtool.spec.environment_yml import package_name
from envtool.spec.version_policy import VersionPolicy


class AgedChannel:
    """What py-rattler asks for the records of a channel."""

    def __init__(self, gateway: Any, channel: str, names: Mapping[str, Sequence[str]], policy: VersionPolicy) -> None:
        self._gateway = gateway
        self._channel = channel
        self._names = names
        self._policy = policy

    async def fetch_package_records(self, platform: Any, name: Any) -> list[Any]:
        """The records of a package that are old enough."""
        found = await self._gateway.query([self._channel], [str(platform)], [name.normalized], recursive=False)
        return [each for records in found for each in records if not is_too_young(each, self._policy)]

    def package_names(self, platform: Any) -> list[str]:
        """The packages of a subdir."""
        return list(self._names.get(str(platform), ()))


def is_too_young(record: Any, policy: VersionPolicy) -> bool:
    """Whether a record counts as published too late; one without any time does, as nothing is known of its age."""
    channel = credentials.strip(record.url).rsplit("/", 2)[0]
    cutoff = policy.cutoff_of(record.name.normalized, channel)
    if cutoff is None:
        return False
    published = getattr(record, "indexed_timestamp", None) or record.timestamp
    return published is None or published > cutoff


# Kept until the process ends: to free the records of a channel takes a fiftieth of a lock's time, for nothing.
_latest: list[Any] = []
_NO_RECORDS_HINT = "is the channel's URL right, and is the network reachable? config.toml takes mirrors: [mirrors]"


class PackageRecord(NamedTuple):
    """One conda package as a channel's repodata describes it."""

    name: str
    version: str
    build: str
    subdir: str  # the subdir of the channel that holds it, `noarch` included
    url: str
    sha256: str | None  # hash of the archive in hexadecimal digits, where the repodata has it
    md5: str | None
    size_bytes: int | None  # size of the archive, where the repodata has it
    depends: tuple[str, ...]
    license: str | None = None
    constrains: tuple[str, ...] = ()  # the match specs that bound other packages, where those are there
    # what it is in other package systems (`pkg:pypi/torch`), where the record of a solution reports it
    purls: tuple[str, ...] = ()


@dataclass(frozen=True)
class SolveRequest:
    """What one platform asks for."""

    platform: str
    channels: tuple[str, ...]
    match_specs: tuple[str, ...]
    virtual_packages: Mapping[str, str]  # what the target machine has, name to `version` or `version build`
    constraints: tuple[str, ...] = ()  # match specs that bound packages without asking for them
    subdirs: tuple[tuple[str, str], ...] = ()  # packages that have to come from one subdir, each with it
    keep: tuple[str, ...] = ()  # canonical URLs of archives that stay unless something asked for forbids it
    policy: VersionPolicy = field(default_factory=VersionPolicy)


class Repodata:
    """The records of channels, fetched once and kept; their URLs stay canonical whatever mirror answers."""

    def __init__(self, cache_dir: Path, mirrors: Mirrors, *, is_offline: bool = False) -> None:
        import rattler
        from rattler.networking import AuthenticationMiddleware, Client, MirrorMiddleware, RetryMiddleware

        cache_dir.mkdir(parents=True, exist_ok=True)
        middlewares = [RetryMiddleware(3), AuthenticationMiddleware()]
        self._relay = None
        if mirrors.by_prefix and not is_offline:
            # Of the ways in which a mirror fails, rattler knows few; the relay asks the next one.
            from envtool.solve.repodata_proxy import RepodataProxy

            self._relay = RepodataProxy(mirrors)
            middlewares.append(MirrorMiddleware(self._relay.by_prefix))
        config = rattler.SourceConfig(cache_action="force-cache-only" if is_offline else "cache-or-fetch")
        self._gateway = rattler.Gateway(cache_dir=cache_dir, default_config=config, client=Client(middlewares))
        _latest[:] = [self._gateway]

    def solve(self, requests: Sequence[SolveRequest]) -> list[list[PackageRecord] | SolveError]:
        """Choose the packages of every request, all at once: for each its packages, sorted by name, or why there are
        none, as an `UnsatisfiableError` with the solver's own words or another `SolveError`."""

        async def solve_all() -> Sequence[Any]:
            answers: Sequence[Any] = await asyncio.gather(*map(self._solve, requests), return_exceptions=True)
            return answers

        answers = asyncio.run(solve_all())
        return [self._answer(request, each) for request, each in zip(requests, answers)]

    def find(self, channels: Sequence[str], platform: str, names: Sequence[str]) -> list[PackageRecord]:
        """Every record that the channels have of some packages. Raises SolveError if they could not be downloaded."""
        return [_record(each) for each in self._records(channels, platform, names)]

    def unknown(self, channels: Sequence[str], platform: str, match_specs: Sequence[str]) -> dict[str, str | None]:
        """The match specs that no record satisfies, with the newest version or None. Raises SolveError."""
        import rattler

        names = {each: name for each in match_specs if (name := package_name(each)) and not name.startswith("__")}
        by_name: dict[str, list[Any]] = {}
        for record in self._records(channels, platform, sorted(set(names.values()))):
            by_name.setdefault(record.name.normalized, []).append(record)
        unknown: dict[str, str | None] = {}
        for text, name in names.items():
            spec = rattler.MatchSpec(text)
            records = by_name.get(name, [])
            if not any(spec.matches(each) for each in records):
                unknown[text] = str(max(each.version for each in records)) if records else None
        return unknown

    def _records(self, channels: Sequence[str], platform: str, names: Sequence[str]) -> list[Any]:
        try:
            return asyncio.run(self._query(channels, platform, names))
        except Exception as error:  # py-rattler raises several unrelated types
            raise self._no_records(platform, error) from error

    def _answer(self, request: SolveRequest, answer: Any) -> list[PackageRecord] | SolveError:
        from rattler.exceptions import SolverError

        if isinstance(answer, SolverError):
            return UnsatisfiableError(request.platform, str(answer).strip())
        if isinstance(answer, SolveError):
            return answer
        if isinstance(answer, Exception):  # py-rattler raises several unrelated types, all with its own text
            return self._no_records(request.platform, answer)
        if isinstance(answer, BaseException):
            raise answer
        found = []
        for each in answer:
            text = each.to_json()  # py-rattler gives the purls in no other way
            purls = json.loads(text).get("purls") if '"purls"' in text else None
            found.append(_record(each, purls or ()))
        return sorted(found, key=lambda record: record.name)

    def _no_records(self, platform: str, error: Exception) -> SolveError:
        failures = list(self._relay.failures) if self._relay else []
        return SolveError(f"{platform}: " + ("\n".join(failures) or str(error)), _NO_RECORDS_HINT)

    async def _query(self, channels: Sequence[str], platform: str, names: Sequence[str]) -> list[Any]:
        by_channel = await self._gateway.query(list(channels), [platform, "noarch"], list(names), recursive=False)
        return [record for records in by_channel for record in records]

    async def _subdirs(self, request: SolveRequest) -> list[str]:
        # The solver does not look at the subdir of a match spec; versions and builds say the same.
        bounds = []
        for name, subdir in request.subdirs:
            found = await self._query(request.channels, request.platform, [name])
            elsewhere = {(str(each.version), str(each.build)) for each in found if each.subdir != subdir}
            here = {(str(each.version), str(each.build)) for each in found if each.subdir == subdir} - elsewhere
            if not here:
                raise SolveError(f"{request.platform}: no channel has {name} in the subdir {subdir}")
            versions = "|".join(sorted({f"=={version}" for version, _ in here}))
            builds = "|".join(sorted({re.escape(build) for _, build in here}))
            bounds.append(f"{name}[version='{versions}', build='^({builds})$']")
        return bounds

    async def _solve(self, request: SolveRequest) -> list[Any]:
        import rattler

        kept = []
        if request.keep:
            urls = set(request.keep)
            names = sorted({file_parts(url)[0] for url in urls})
            found = await self._query(request.channels, request.platform, names)
            files = {url.rpartition("/")[2] for url in urls}  # told apart quickly: there are thousands of records
            alike = [each for each in found if each.url.rpartition("/")[2] in files]
            kept = [each for each in alike if credentials.strip(each.url) in urls]
        policy = request.policy
        sources: list[Any] = list(request.channels)
        if policy.has_exceptions:
            sources = []
            for channel in request.channels:
                known = {each: await self._gateway.names([channel], [each]) for each in (request.platform, "noarch")}
                by_subdir = {subdir: [each.normalized for each in found] for subdir, found in known.items()}
                sources.append(AgedChannel(self._gateway, channel, by_subdir, policy))
            kept = [each for each in kept if not is_too_young(each, policy)]
        records: list[Any] = await rattler.solve(
            sources=sources, specs=[rattler.MatchSpec(spec) for spec in request.match_specs],
            platforms=[request.platform, "noarch"], gateway=self._gateway,
            virtual_packages=[_generic(name, value) for name, value in sorted(request.virtual_packages.items())],
            constraints=[rattler.MatchSpec(each) for each in (*request.constraints, *await self._subdirs(request))],
            locked_packages=kept, exclude_newer=None if policy.has_exceptions else policy.exclude_newer,
            strategy=policy.strategy,
        )  # fmt: skip
        return records


def compare_versions(first: str, second: str) -> int:
    """The order of two conda versions: negative when the first is the older one, 0 when they are equal."""
    import rattler

    one, other = rattler.Version(first), rattler.Version(second)
    return int(one > other) - int(one < other)


def matches(match_spec: str, name: str, version: str, build: str) -> bool:
    """Whether a match spec takes a package; which channel it is of does not count."""
    import rattler

    record = rattler.PackageRecord(name, version, _build_string(build), 0, "noarch")
    return bool(rattler.MatchSpec(match_spec).matches(record))


def match_spec_problem(text: str) -> str | None:
    """Why a text is not a valid match spec, or None when it is one."""
    import rattler

    try:
        rattler.MatchSpec(text)
    except Exception as error:  # py-rattler raises several unrelated types
        return str(error)
    return None


def _generic(name: str, value: str) -> Any:
    import rattler

    version, _, build = value.partition(" ")
    return rattler.GenericVirtualPackage(
        rattler.PackageName(name), rattler.Version(version), _build_string(build or "0")
    )


def _build_string(text: str) -> Any:
    import rattler

    # py-rattler 0.25 takes the build as text, later ones as a type of their own.
    return getattr(rattler, "BuildString", str)(text)


def _record(record: Any, purls: Iterable[str] = ()) -> PackageRecord:
    return PackageRecord(
        name=record.name.normalized, version=str(record.version), build=str(record.build), subdir=record.subdir,
        url=credentials.strip(record.url), sha256=record.sha256.hex() if record.sha256 else None,
        md5=record.md5.hex() if record.md5 else None, size_bytes=record.size, depends=tuple(record.depends),
        license=record.license, constrains=tuple(record.constrains), purls=tuple(purls),
    )  # fmt: skip


def records_of(packages: Iterable[LockedPackage], *, is_offline: bool) -> Iterator[PackageRecord]:
    """What the channels of locked packages have under the packages' names; nothing of channels that give no answer."""
    by_place: dict[tuple[str, str], set[str]] = {}
    for each in packages:
        by_place.setdefault((each.url.rsplit("/", 2)[0], each.platform), set()).add(each.name)
    repodata = Repodata(paths.repodata_cache(), mirrors_module.configured(), is_offline=is_offline)
    for (channel, platform), names in by_place.items():
        with contextlib.suppress(EnvtoolError):
            yield from repodata.find([channel], platform, sorted(names))
