"""The door to py-rattler for prefixes: plain values go in and out, so that nothing else depends on its version (0.25 on
Python 3.9). The process must end through `envtool.__main__`: py-rattler may crash in interpreter shutdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from envtool.artifacts.download import require_sha256
from envtool.atomic_files import write_atomically
from envtool.errors import ArchiveError, EnvtoolError
from envtool.lockfile.model import LockedPackage
from envtool.prefix.conda_meta import as_conda_writes, as_rattler_reads, channel_of
from envtool.prefix.prefix import Prefix


class LinkRequest(NamedTuple):
    """An archive of a package of the lock, to be linked into a prefix."""

    package: LockedPackage
    archive: Path
    unpacked: Path


def link(requests: Sequence[LinkRequest], kept: Sequence[str], prefix: Path, platform: str, cache_dir: Path) -> None:
    """Link archives into a prefix, anew where they are there already, and unlink what is extra. Raises EnvtoolError."""
    import asyncio

    import rattler

    site_packages = Prefix(prefix).site_packages()
    _rewrite_records(prefix, lambda record: as_rattler_reads(record, site_packages))
    records = [_repodata_record(request) for request in requests]
    found = [rattler.PrefixRecord.from_path(path) for path in sorted((prefix / "conda-meta").glob("*.json"))]
    there = {record.name.normalized: record for record in found}
    records += [there[name] for name in kept]

    async def install() -> None:
        await rattler.install(
            records, target_prefix=prefix, cache_dir=cache_dir,
            platform=(rattler.Subdir if hasattr(rattler, "Subdir") else rattler.Platform)(platform),
            show_progress=False, execute_link_scripts=False, installed_packages=list(there.values()),
            reinstall_packages={request.package.name for request in requests} & there.keys(),
        )  # fmt: skip

    try:
        asyncio.run(install())
    except Exception as error:  # py-rattler raises several unrelated types
        raise EnvtoolError(f"the archives could not be linked into {prefix}: {error}") from error
    # Newer versions of py-rattler mark the prefix as a cache, older ones do not: the same lock would give two digests.
    tag = prefix / "CACHEDIR.TAG"
    if tag.is_file() and b"created by rattler" in tag.read_bytes():
        tag.unlink()
    linked = {request.archive.as_uri(): request for request in requests}

    def mend(record: dict[str, Any]) -> dict[str, Any]:
        request = linked.get(record["url"])
        return as_conda_writes(record, request.package.url, request.package.md5) if request else record

    _rewrite_records(prefix, mend)


def link_order(depends: Mapping[str, Sequence[str]], noarch: Collection[str]) -> list[str]:
    """The names of packages in the order in which they are linked, each one after those that it needs."""
    import rattler

    build = getattr(rattler, "BuildString", str)("0")
    records = []
    for name, specs in depends.items():
        kind = rattler.NoArchType("generic" if name in noarch else None)
        try:
            records.append(rattler.PackageRecord(name, "0", build, 0, "noarch", noarch=kind, depends=list(specs)))
        except Exception as error:  # of another place in each py-rattler
            raise EnvtoolError(str(error)) from error
    return [each.name.source for each in rattler.PackageRecord.sort_topologically(records)]


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


def version_key(version: str) -> Any:
    """What versions are compared by in conda's order."""
    import rattler

    return rattler.Version(version)


def _repodata_record(request: LinkRequest) -> Any:
    # Made from the archive's own index.json, since a lock leaves out most of what conda-meta needs. The URL is the
    # proven file's: py-rattler hashes no file:// archive, and need not, as it was hashed just before.
    import rattler

    index_json = request.unpacked / "info" / "index.json"
    if not index_json.is_file():
        raise ArchiveError(f"{request.archive} has no info/index.json")
    content = json.loads(index_json.read_bytes())
    if not content.get("subdir"):  # as conda does, it is where the channel has it
        index_json.write_text(json.dumps({**content, "subdir": request.package.url.rsplit("/", 2)[1]}))
    size_bytes, sha256 = request.archive.stat().st_size, require_sha256(request.package)
    try:
        record = rattler.PackageRecord.from_index_json(index_json, size=size_bytes, sha256=sha256)
    except Exception as error:  # py-rattler raises several unrelated types
        raise ArchiveError(f"{request.archive}: info/index.json cannot be used: {error}") from error
    name = f"{record.name.normalized}-{record.version}-{record.build}"
    if "/" in name:
        raise ArchiveError(f"{request.archive} is {name} by its own index.json")
    # What py-rattler takes for the package as it unpacked it itself, in 0.25 and in 0.28: a revision, and in newer ones
    # the hash of the archive. One that does not see it unpacks the archive once more, and then all files are read back.
    place = request.unpacked.with_name(name)
    request.unpacked.rename(place)
    place.with_name(f"{name}.lock").write_bytes((1).to_bytes(8, "big") + bytes.fromhex(sha256))
    return rattler.RepoDataRecord(
        record, request.archive.name, request.archive.as_uri(), channel_of(request.package.url)
    )


def _rewrite_records(prefix: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    for path in (prefix / "conda-meta").glob("*.json"):
        record = json.loads(path.read_bytes())
        changed = change(record)
        if changed != record:
            write_atomically(path, json.dumps(changed, indent=2, sort_keys=True) + "\n")
