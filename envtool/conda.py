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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envtool.archive import read_info
from envtool.errors import ArchiveError, EnvtoolError, SolveError
from envtool.files import write_atomically


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


def solve(
    channels: Sequence[str],
    match_specs: Sequence[str],
    platform: str,
    virtual_packages: Mapping[str, str],
    cache_dir: Path,
) -> list[PackageRecord]:
    """Choose the packages of one platform.

    Args:
        channels: Channel URLs, the first has priority.
        match_specs: What is asked for.
        platform: The subdir to solve for.
        virtual_packages: What the target machine has, name to `version` or `version build`.
        cache_dir: Where repodata is kept between runs.

    Returns:
        The packages, sorted by name.

    Raises:
        SolveError: Nothing satisfies the request, or a match spec cannot be parsed; the solver's own words.
    """
    import rattler

    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        gateway = rattler.Gateway(cache_dir=cache_dir)
        virtual = [_generic(name, value) for name, value in sorted(virtual_packages.items())]
        call = rattler.solve(
            sources=list(channels),
            specs=[rattler.MatchSpec(spec) for spec in match_specs],
            platforms=[platform, "noarch"],
            gateway=gateway,
            virtual_packages=virtual,
        )
        records = asyncio.run(_await(call))
    except Exception as error:  # py-rattler raises several unrelated types, all with the solver's own text
        raise SolveError(f"{platform}: {error}") from error
    return sorted((_record(each) for each in records), key=lambda record: record.name)


@dataclass(frozen=True)
class LinkRequest:
    """An archive to be linked into a prefix.

    Args:
        url: Its canonical URL, which conda-meta shall name.
        sha256: Its proven hash.
        archive: The proven file.
    """

    url: str
    sha256: str
    archive: Path


def link(requests: Sequence[LinkRequest], prefix: Path, platform: str, cache_dir: Path) -> None:
    """Make the conda part of a prefix equal to the requests: link what is missing, unlink what is extra.

    Args:
        requests: Every package that the prefix shall have.
        prefix: The prefix; its conda-meta tells what is there now.
        platform: The platform of the prefix.
        cache_dir: An empty directory on the file system of the prefix, for extracted archives.

    Raises:
        EnvtoolError: An archive cannot be linked.
    """
    import rattler

    records = [_repodata_record(request) for request in requests]
    try:
        call = rattler.install(
            records,
            target_prefix=prefix,
            cache_dir=cache_dir,
            platform=_platform(platform),
            show_progress=False,
            execute_link_scripts=False,
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
        url=record.url,
        sha256=record.sha256.hex() if record.sha256 else None,
        md5=record.md5.hex() if record.md5 else None,
        size_bytes=record.size,
        depends=tuple(record.depends),
    )
