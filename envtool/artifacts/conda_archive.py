"""What a package archive holds: the files of its `info/` directory and its payload, from .conda and .tar.bz2 alike.

Source: the conda package specification (CEP 26 file names, .conda format version 2). Out of scope: writing archives
(`envtool.artifacts.conda_writer`) and linking them (`envtool.solve.conda_solver`).
"""

from __future__ import annotations

import bz2
import hashlib
import json
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from envtool.artifacts.read_ahead import read_ahead
from envtool.artifacts.relocation import without_rewritten
from envtool.errors import ArchiveError

_CHUNK_BYTES = 1 << 20


def read_info(archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Read files of `info/`.

    Args:
        archive: The archive.
        names: Paths below `info/`, such as `index.json`.

    Returns:
        The content of each that is there.

    Raises:
        ArchiveError: It is no package archive.
    """
    wanted = {f"info/{name}": name for name in names}
    found: dict[str, bytes] = {}
    try:
        with open_part(archive, "info") as tar:
            for member in tar:
                name = wanted.get(member.name)
                if name is not None and (file := tar.extractfile(member)) is not None:
                    found[name] = file.read()
                if len(found) == len(wanted):
                    break  # in a .tar.bz2 the payload comes after info/, and unpacking it takes long
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, KeyError) as error:
        raise ArchiveError(f"{archive} is no package archive: {error}") from error
    return found


def read_info_json(archive: Path, name: str) -> dict[str, Any]:
    """Read one JSON file of `info/`.

    Raises:
        ArchiveError: It is not there or no JSON, or the archive is none.
    """
    return parse_info(archive, read_info(archive, [name]), name)


def parse_info(archive: Path, info: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Parse one of the files of `info/`.

    Args:
        archive: The archive, for messages.
        info: The content of those that are there.
        name: Which one.

    Raises:
        ArchiveError: It is not there, or no JSON.
    """
    if name not in info:
        raise ArchiveError(f"{archive} has no info/{name}")
    try:
        return cast("dict[str, Any]", json.loads(info[name]))
    except ValueError as error:
        raise ArchiveError(f"info/{name} of {archive} is not JSON: {error}") from error


@dataclass(frozen=True)
class Member:
    """One file or link of an archive's payload.

    Args:
        path: Its path in the archive.
        is_link: Whether it is a symbolic link.
        is_executable: Whether its owner may execute it; False for links.
        sha256: Hash of its content, or of the target of a link.
        normalized_sha256: The same, but of a RECORD without the hashes of scripts, as the env digest counts it.
    """

    path: str
    is_link: bool
    is_executable: bool
    sha256: str
    normalized_sha256: str


def read_payload(archive: Path) -> list[Member]:
    """Read every file of an archive's payload, everything but `info/`.

    Raises:
        ArchiveError: It is no package archive.
    """
    members: dict[str, Member] = {}
    try:
        with open_part(archive, "pkg") as tar:
            for info in tar:
                if not info.isdir() and not info.name.startswith("info/"):
                    members[info.name] = read_member(tar, info, members)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, KeyError) as error:
        raise ArchiveError(f"{archive} is no package archive: {error}") from error
    return list(members.values())


def read_member(
    tar: tarfile.TarFile,
    info: tarfile.TarInfo,
    members: Mapping[str, Member],
    write: Callable[[bytes], object] | None = None,
) -> Member:
    """Read one file or link of an archive's payload.

    Args:
        tar: The archive, at this member.
        info: The member.
        members: Those that came before it, by path; a hard link is a second name of one of them.
        write: Given the content, piece by piece.
    """
    if info.issym():
        target = os.fsencode(info.linkname)
        sha256 = hashlib.sha256(target).hexdigest()
        return Member(info.name, True, False, sha256, sha256)
    if info.islnk():
        return replace(members[info.linkname], path=info.name)
    digest = hashlib.sha256()
    normalized = None
    if (file := tar.extractfile(info)) is not None:
        is_record = info.name.endswith(".dist-info/RECORD")
        while chunk := file.read(info.size if is_record else _CHUNK_BYTES):
            digest.update(chunk)
            normalized = hashlib.sha256(without_rewritten(chunk)).hexdigest() if is_record else None
            if write is not None:
                write(chunk)
    sha256 = digest.hexdigest()
    return Member(info.name, False, bool(info.mode & stat.S_IXUSR), sha256, normalized or sha256)


@contextmanager
def open_part(archive: Path, part: str) -> Iterator[tarfile.TarFile]:
    """Open a part of an archive, to be read from its beginning to its end.

    Args:
        archive: The archive.
        part: `pkg` or `info`; a .tar.bz2 holds both in one.
    """
    with _open_stream(archive, part) as stream, read_ahead(stream) as ahead:
        yield tarfile.open(fileobj=cast("IO[bytes]", ahead), mode="r|")  # noqa: SIM115 - closed with its stream


@contextmanager
def _open_stream(archive: Path, part: str) -> Iterator[IO[bytes]]:
    if archive.name.endswith(".conda"):
        with zipfile.ZipFile(archive) as outer:
            inner = next((each for each in outer.namelist() if each.startswith(f"{part}-")), f"{part}-*.tar.zst")
            with outer.open(inner) as compressed, _decompress(compressed) as stream:
                yield stream
    else:
        with bz2.open(archive) as stream:
            yield stream


@contextmanager
def _decompress(compressed: IO[bytes]) -> Iterator[IO[bytes]]:
    import zstandard

    with zstandard.ZstdDecompressor().stream_reader(compressed, read_across_frames=True) as stream:
        try:
            yield cast("IO[bytes]", stream)
        except zstandard.ZstdError as error:
            raise ArchiveError(f"damaged zstd data: {error}") from error
