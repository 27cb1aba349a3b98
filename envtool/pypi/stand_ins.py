"""Empty wheels that represent conda packages while uv chooses the others, with the requirements of their extras.

A stand-in states name, version and, where an extra is asked for, what the extras need: uv asks no index for that name,
chooses no other version and completes nothing.

They are in the METADATA in the archive, which is fetched if need be: an index may have a stranger's package of that
name. The index is asked for that very version only where there is no archive, or no METADATA in it.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

from envtool.artifacts.download import find_archive
from envtool.errors import EnvtoolError, SolveError
from envtool.fetch.archive_cache import Cache
from envtool.lockfile.pylock import parse_pylock
from envtool.pypi.distributions import metadata_at, metadata_in

if TYPE_CHECKING:
    from envtool.mirrors.mirrors import Mirrors
    from envtool.pypi.distributions import Provided
    from envtool.pypi.resolve import Resolution

_WHEEL = "Wheel-Version: 1.0\nGenerator: envtool\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def stand_in(provided: Provided, extras: str, directory: Path) -> Path:
    """Write the stand-in of a distribution, unless it is there; its path states its content, so uv may remember it."""
    metadata = f"Metadata-Version: 2.1\nName: {provided.name}\nVersion: {provided.version}\n{extras}"
    stem = f"{provided.name.replace('-', '_')}-{provided.version}"
    content = _wheel(stem, metadata)
    path = directory / hashlib.sha256(metadata.encode()).hexdigest()[:16] / f"{stem}-py3-none-any.whl"
    if not path.is_file() or path.stat().st_size != len(content):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{id(content)}.tmp")
        temporary.write_bytes(content)  # not synced: one that a crash spoils has another size
        temporary.replace(path)
    return path


def extras_in(metadata: str) -> str:
    """The lines of a METADATA that are about its extras.

    Source: PyPA core metadata specification, "Provides-Extra", "Requires-Dist".
    """
    headers = HeaderParser().parsestr(metadata)
    lines = [f"Provides-Extra: {each}" for each in headers.get_all("Provides-Extra", [])]
    needs = (" ".join(str(each).split()) for each in headers.get_all("Requires-Dist", []))
    lines += [f"Requires-Dist: {each}" for each in needs if "extra" in each.partition(";")[2]]
    return "".join(f"{each}\n" for each in lines)


def _wheel(stem: str, metadata: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in (("METADATA", metadata), ("WHEEL", _WHEEL), ("RECORD", "")):
            archive.writestr(zipfile.ZipInfo(f"{stem}.dist-info/{name}"), text)
    return buffer.getvalue()


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
