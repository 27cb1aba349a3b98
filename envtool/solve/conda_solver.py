"""The door to py-rattler for choosing packages: repodata, match specs, solving. `envtool.prefix.rattler` is the one for
prefixes.

Takes and gives plain values, so that nothing else depends on which py-rattler is installed (0.25 on Python 3.9, newer
ones elsewhere). Its event loop runs in `asyncio.run`; the process must then end through `envtool.__main__`, since
py-rattler may crash while the interpreter shuts down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envtool.errors import SolveError, UnsatisfiableError
from envtool.fetch import url_credentials
from envtool.mirrors.mirrors import Mirrors
from envtool.spec.version_policy import Policy

# Kept until the process ends: to free the records of a channel takes a fiftieth of a lock's time, for nobody.
_latest: list[Any] = []
_NO_RECORDS_HINT = "is the channel's URL right, and is there a way to it? A mirror can be set in config.toml: [mirrors]"


@dataclass(frozen=True)
class PackageRecord:
    """One conda package as a channel's repodata describes it.

    Args:
        name: The package.
        version: Its version.
        build: Its build string.
        subdir: The subdir of the channel that holds it, `noarch` included.
        url: Where the channel has the archive.
        sha256: Hash of the archive in hexadecimal digits, where the repodata has it.
        md5: The same in MD5, which conda-lock demands.
        size_bytes: Size of the archive, where the repodata has it.
        depends: The match specs that it needs.
        license: Its licence as the channel states it.
    """

    name: str
    version: str
    build: str
    subdir: str
    url: str
    sha256: str | None
    md5: str | None
    size_bytes: int | None
    depends: tuple[str, ...]
    license: str | None = None


@dataclass(frozen=True)
class SolveRequest:
    """What one platform asks for.

    Args:
        platform: The subdir to solve for.
        channels: Channel URLs, the first has priority.
        match_specs: What is asked for.
        virtual_packages: What the target machine has, name to `version` or `version build`.
        constraints: Match specs that bound packages without asking for them.
        keep: Canonical URLs of archives that stay unless something asked for forbids it.
        policy: Which of the versions that fit.
    """

    platform: str
    channels: tuple[str, ...]
    match_specs: tuple[str, ...]
    virtual_packages: Mapping[str, str]
    constraints: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    policy: Policy = field(default_factory=Policy)


class Repodata:
    """The package records of channels, fetched once and kept between runs; the solver works on them.

    Args:
        cache_dir: Where they are kept.
        mirrors: Where they may come from. The URLs of records stay canonical whatever mirror answers.
        is_offline: Whether what is kept has to do.
    """

    def __init__(self, cache_dir: Path, mirrors: Mirrors, *, is_offline: bool = False) -> None:
        import rattler
        from rattler.networking import AuthenticationMiddleware, Client, MirrorMiddleware, RetryMiddleware

        cache_dir.mkdir(parents=True, exist_ok=True)
        middlewares = [RetryMiddleware(3), AuthenticationMiddleware()]
        self._relay = None
        if mirrors.by_prefix and not is_offline:
            # Of the ways in which a mirror fails, rattler knows few; the relay asks the next one.
            from envtool.solve.repodata_proxy import Relay

            self._relay = Relay(mirrors)
            middlewares.append(MirrorMiddleware(self._relay.by_prefix))
        config = rattler.SourceConfig(cache_action="force-cache-only" if is_offline else "cache-or-fetch")
        self._gateway = rattler.Gateway(cache_dir=cache_dir, default_config=config, client=Client(middlewares))
        _latest[:] = [self._gateway]

    def solve(self, requests: Sequence[SolveRequest]) -> list[list[PackageRecord] | SolveError]:
        """Choose the packages of every request, all at once.

        Returns:
            For each request its packages, sorted by name, or why there are none: an `UnsatisfiableError` with the
            solver's own words, or another `SolveError`.
        """

        async def solve_all() -> Sequence[Any]:
            answers: Sequence[Any] = await asyncio.gather(*map(self._solve, requests), return_exceptions=True)
            return answers

        answers = asyncio.run(solve_all())
        return [self._answer(request, each) for request, each in zip(requests, answers)]

    def find(self, channels: Sequence[str], platform: str, names: Sequence[str]) -> list[PackageRecord]:
        """Every record that the channels have of some packages.

        Raises:
            SolveError: The records of a channel could not be had.
        """
        try:
            found = asyncio.run(_await(self._query(channels, platform, names)))
        except Exception as error:  # py-rattler raises several unrelated types
            raise self._no_records(platform, error) from error
        return [_record(each) for each in found]

    def _answer(self, request: SolveRequest, answer: Any) -> list[PackageRecord] | SolveError:
        from rattler.exceptions import SolverError

        if isinstance(answer, SolverError):
            return UnsatisfiableError(request.platform, str(answer).strip())
        if isinstance(answer, Exception):  # py-rattler raises several unrelated types, all with its own text
            return self._no_records(request.platform, answer)
        if isinstance(answer, BaseException):
            raise answer
        return sorted((_record(each) for each in answer), key=lambda record: record.name)

    def _no_records(self, platform: str, error: Exception) -> SolveError:
        failures = list(self._relay.failures) if self._relay else []
        return SolveError(f"{platform}: " + ("\n".join(failures) or str(error)), _NO_RECORDS_HINT)

    async def _query(self, channels: Sequence[str], platform: str, names: Sequence[str]) -> list[Any]:
        by_channel = await self._gateway.query(list(channels), [platform, "noarch"], list(names), recursive=False)
        return [record for records in by_channel for record in records]

    async def _solve(self, request: SolveRequest) -> list[Any]:
        import rattler

        kept = []
        if request.keep:
            urls = set(request.keep)
            names = sorted({url.rpartition("/")[2].rsplit("-", 2)[0].lower() for url in urls})
            found = await self._query(request.channels, request.platform, names)
            kept = [each for each in found if url_credentials.strip(each.url) in urls]
        records: list[Any] = await rattler.solve(
            sources=list(request.channels),
            specs=[rattler.MatchSpec(spec) for spec in request.match_specs],
            platforms=[request.platform, "noarch"],
            gateway=self._gateway,
            virtual_packages=[_generic(name, value) for name, value in sorted(request.virtual_packages.items())],
            constraints=[rattler.MatchSpec(spec) for spec in request.constraints],
            locked_packages=kept,
            exclude_newer=request.policy.exclude_newer,
            strategy=request.policy.strategy,
        )
        return records


def compare_versions(first: str, second: str) -> int:
    """The order of two conda versions: negative when the first is the older one, 0 when they are equal."""
    import rattler

    one, other = rattler.Version(first), rattler.Version(second)
    return int(one > other) - int(one < other)


def match_spec_problem(text: str) -> str | None:
    """Why a text is no match spec, or None when it is one."""
    import rattler

    try:
        rattler.MatchSpec(text)
    except Exception as error:  # py-rattler raises several unrelated types
        return str(error)
    return None


async def _await(call: Any) -> Any:
    return await call


def _generic(name: str, value: str) -> Any:
    import rattler

    version, _, build = value.partition(" ")
    # py-rattler 0.25 takes the build as text, later ones as a type of their own.
    build_type = getattr(rattler, "BuildString", str)
    return rattler.GenericVirtualPackage(rattler.PackageName(name), rattler.Version(version), build_type(build or "0"))


def _record(record: Any) -> PackageRecord:
    return PackageRecord(
        name=record.name.normalized,
        version=str(record.version),
        build=str(record.build),
        subdir=record.subdir,
        url=url_credentials.strip(record.url),
        sha256=record.sha256.hex() if record.sha256 else None,
        md5=record.md5.hex() if record.md5 else None,
        size_bytes=record.size,
        depends=tuple(record.depends),
        license=record.license,
    )
