"""The requirements of extras of a distribution that a conda package brings (`uvicorn[standard]`).

They are in the METADATA in the archive, which is fetched if need be: an index may have a stranger's package of that
name. The index is asked for that very version only where there is no archive, or no METADATA in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from envtool.artifacts.dist_info import metadata_in
from envtool.artifacts.reachable_archives import find_archive
from envtool.errors import EnvtoolError, SolveError
from envtool.fetch.archive_cache import Cache
from envtool.lockfile.pylock import parse_pylock
from envtool.pypi.index_metadata import metadata_at
from envtool.pypi.stand_ins import extras_in

if TYPE_CHECKING:
    from envtool.mirrors.mirrors import Mirrors
    from envtool.pypi.distribution_names import Provided
    from envtool.pypi.resolution import Resolution


def extras_of(provided: Provided, resolution: Resolution, cache: Cache, mirrors: Mirrors) -> str:
    """The lines about extras in the METADATA of a distribution that conda brings.

    Raises:
        SolveError: Neither archive nor index tells them.
    """
    archive = find_archive(provided.record, cache, mirrors)
    metadata = _in_archive(archive, provided.name) if archive else None
    metadata = metadata or _of_index(provided, resolution)
    if metadata is None:
        raise SolveError(
            f"{provided.name} {provided.version} is brought by the conda package {provided.record.name}, "
            "and what its extras need cannot be found: neither in the archive nor in the index",
            "write what the extra needs into the pip section, and leave the extra out",
        )
    return extras_in(metadata)


def _in_archive(archive: Path, name: str) -> str | None:
    try:
        return metadata_in(archive, name)
    except EnvtoolError:
        return None


def _of_index(provided: Provided, resolution: Resolution) -> str | None:
    requirement = f"{provided.name}=={provided.version}"
    try:
        found = parse_pylock(resolution.pylock([requirement], ["--no-deps"]))
    except EnvtoolError:
        return None
    return metadata_at(found[0].url) if found else None
