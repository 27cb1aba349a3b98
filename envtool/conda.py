"""The one door to py-rattler: solving, linking, activation scripts and the virtual packages of this machine.

Everything here takes and gives plain values, so that no other module depends on which py-rattler is installed (0.25 on
Python 3.9, newer ones elsewhere). Its event loop runs in `asyncio.run`; the process must then end through
`envtool.exit`, since py-rattler may crash while the interpreter shuts down.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envtool import credentials
from envtool.archive import read_info
from envtool.errors import ArchiveError, EnvtoolError, SolveError, UnsatisfiableError
from envtool.files import write_atomically
from envtool.mirrors import Mirrors
from envtool.policy import Policy

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
        # rattler fails over to the next mirror only when the retries stand before the mirrors.
        by_prefix = {prefix: [*urls, prefix] for prefix, urls in mirrors.by_prefix.items() if prefix.startswith("http")}
        middlewares = [
            RetryMiddleware(3),
            AuthenticationMiddleware(),
            *([MirrorMiddleware(by_prefix)] if by_prefix else []),
        ]
        config = rattler.SourceConfig(cache_action="force-cache-only" if is_offline else "cache-or-fetch")
        self._gateway = rattler.Gateway(cache_dir=cache_dir, default_config=config, client=Client(middlewares))

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
        return [_answer(request, each) for request, each in zip(requests, answers)]

    def find(self, channels: Sequence[str], platform: str, names: Sequence[str]) -> list[PackageRecord]:
        """Every record that the channels have of some packages.

        Raises:
            SolveError: The records of a channel could not be had.
        """
        try:
            found = asyncio.run(_await(self._query(channels, platform, names)))
        except Exception as error:  # py-rattler raises several unrelated types
            raise SolveError(f"{platform}: {error}", _NO_RECORDS_HINT) from error
        return [_record(each) for each in found]

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
            kept = [each for each in found if credentials.strip(each.url) in urls]
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


def _answer(request: SolveRequest, answer: Any) -> list[PackageRecord] | SolveError:
    from rattler.exceptions import SolverError

    if isinstance(answer, SolverError):
        return UnsatisfiableError(request.platform, str(answer).strip())
    if isinstance(answer, Exception):  # py-rattler raises several unrelated types, all with its own text
        return SolveError(f"{request.platform}: {answer}", _NO_RECORDS_HINT)
    if isinstance(answer, BaseException):
        raise answer
    return sorted((_record(each) for each in answer), key=lambda record: record.name)


@dataclass(frozen=True)
class LinkRequest:
    """An archive to be linked into a prefix.

    Args:
        name: The package.
        url: Its canonical URL, which conda-meta shall name.
        sha256: Its proven hash.
        archive: The proven file.
    """

    name: str
    url: str
    sha256: str
    archive: Path


def link(requests: Sequence[LinkRequest], kept: Sequence[str], prefix: Path, platform: str, cache_dir: Path) -> None:
    """Link archives into a prefix, anew where the package is there already, and unlink what is extra.

    Args:
        requests: The packages to link.
        kept: The names of packages that are in the prefix and stay as they are.
        prefix: The prefix; its conda-meta tells what is there now.
        platform: The platform of the prefix.
        cache_dir: An empty directory on the file system of the prefix, for extracted archives.

    Raises:
        EnvtoolError: An archive cannot be linked.
    """
    import rattler

    records = [_repodata_record(request) for request in requests]
    there = {record.name.normalized: record for record in _prefix_records(prefix)}
    records += [there[name] for name in kept]
    try:
        call = rattler.install(
            records,
            target_prefix=prefix,
            cache_dir=cache_dir,
            platform=_platform(platform),
            show_progress=False,
            execute_link_scripts=False,
            installed_packages=list(there.values()),
            reinstall_packages={request.name for request in requests} & there.keys(),
        )
        asyncio.run(_await(call))
    except Exception as error:  # py-rattler raises several unrelated types
        raise EnvtoolError(f"the archives could not be linked into {prefix}: {error}") from error
    _name_canonical_urls(requests, prefix)


def activation_script(prefix: Path) -> str:
    """The bash script that activates a prefix: its PATH, its variables and its activate.d scripts."""
    from rattler.shell import ActivationVariables, Shell, activate

    # CONDA_PREFIX is not passed on: with it, the script would first deactivate the environment that envtool runs in.
    variables = ActivationVariables(None, os.environ.get("PATH", "").split(os.pathsep))
    script: str = activate(prefix, variables, Shell.bash).script
    return script


def detect_virtual_packages() -> dict[str, str]:
    """The virtual packages of this machine, name to `version` or `version build`; CONDA_OVERRIDE_* is respected."""
    import rattler

    found = rattler.VirtualPackage.detect(rattler.VirtualPackageOverrides.from_env())
    generic = [each.into_generic() for each in found]
    return {each.name.normalized: f"{each.version} {each.build_string}" for each in generic}


def satisfies(version: str, constraint: str) -> bool:
    """Whether a version is within a version constraint such as `>=2.17,<3.0.a0`; anything is within an empty one."""
    import rattler

    spec = constraint.split(" ")[0]
    return not spec or bool(rattler.VersionSpec(spec).matches(rattler.Version(version)))


def index(channel: Path) -> None:
    """Write the repodata of a channel directory, compressed as well.

    Args:
        channel: A directory with one subdir for each platform, `noarch` among them.
    """
    from rattler.index import index_fs

    asyncio.run(_await(index_fs(channel, write_zst=True, write_shards=False)))


async def _await(call: Any) -> Any:
    return await call


def _generic(name: str, value: str) -> Any:
    import rattler

    version, _, build = value.partition(" ")
    # py-rattler 0.25 takes the build as text, later ones as a type of their own.
    build_type = getattr(rattler, "BuildString", str)
    return rattler.GenericVirtualPackage(rattler.PackageName(name), rattler.Version(version), build_type(build or "0"))


def _platform(name: str) -> Any:
    import rattler

    kind = rattler.Subdir if hasattr(rattler, "Subdir") else rattler.Platform
    return kind(name)


def _prefix_records(prefix: Path) -> list[Any]:
    import rattler

    return [rattler.PrefixRecord.from_path(path) for path in sorted((prefix / "conda-meta").glob("*.json"))]


def _repodata_record(request: LinkRequest) -> Any:
    # Made from the archive's own index.json, since a lock leaves out most of what conda-meta needs. The URL is the
    # proven file's: py-rattler hashes no file:// archive, and need not, as it was hashed just before.
    import rattler

    content = read_info(request.archive, ["index.json"]).get("index.json")
    if content is None:
        raise ArchiveError(f"{request.archive} has no info/index.json")
    with tempfile.NamedTemporaryFile(suffix=".json") as index_json:
        index_json.write(content)
        index_json.flush()
        record = rattler.PackageRecord.from_index_json(
            Path(index_json.name), size=request.archive.stat().st_size, sha256=request.sha256
        )
    return rattler.RepoDataRecord(record, request.archive.name, request.archive.as_uri(), _channel(request.url))


def _channel(url: str) -> str:
    return url.rsplit("/", 2)[0] + "/"


def _name_canonical_urls(requests: Sequence[LinkRequest], prefix: Path) -> None:
    urls = {request.archive.as_uri(): request.url for request in requests}
    for path in (prefix / "conda-meta").glob("*.json"):
        record = json.loads(path.read_bytes())
        if record.get("url") in urls:
            record["url"] = urls[record["url"]]
            write_atomically(path, json.dumps(record, indent=2, sort_keys=True) + "\n")


def _record(record: Any) -> PackageRecord:
    return PackageRecord(
        name=record.name.normalized,
        version=str(record.version),
        build=str(record.build),
        subdir=record.subdir,
        url=credentials.strip(record.url),
        sha256=record.sha256.hex() if record.sha256 else None,
        md5=record.md5.hex() if record.md5 else None,
        size_bytes=record.size,
        depends=tuple(record.depends),
        license=record.license,
    )
