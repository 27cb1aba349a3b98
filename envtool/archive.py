"""What a package archive says of itself: the files of its `info/` directory, from .conda and .tar.bz2 alike.

Source: the conda package specification (CEP 26 file names, .conda format version 2). Out of scope: writing archives
(`envtool.channel.archive`) and extracting their payload (py-rattler).
"""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from envtool.errors import ArchiveError


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
        with _info_tar(archive) as tar:
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
    content = read_info(archive, [name]).get(name)
    if content is None:
        raise ArchiveError(f"{archive} has no info/{name}")
    try:
        return cast("dict[str, Any]", json.loads(content))
    except ValueError as error:
        raise ArchiveError(f"info/{name} of {archive} is not JSON: {error}") from error


@contextmanager
def _info_tar(archive: Path) -> Iterator[tarfile.TarFile]:
    if archive.name.endswith(".conda"):
        with zipfile.ZipFile(archive) as outer:
            inner = next((each for each in outer.namelist() if each.startswith("info-")), "info-*.tar.zst")
            with outer.open(inner) as compressed, _decompress(compressed) as stream:
                yield tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115 - closed with its stream
    else:
        with tarfile.open(archive, "r:bz2") as tar:
            yield tar


@contextmanager
def _decompress(compressed: IO[bytes]) -> Iterator[IO[bytes]]:
    import zstandard

    with zstandard.ZstdDecompressor().stream_reader(compressed, read_across_frames=True) as stream:
        try:
            yield cast("IO[bytes]", stream)
        except zstandard.ZstdError as error:
            raise ArchiveError(f"damaged zstd data: {error}") from error
