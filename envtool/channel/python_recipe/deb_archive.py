"""Reader of Debian binary packages: an `ar` archive that holds two `tar` archives.

Only the standard library is needed, and zstandard for packages made by newer tools. Nothing is unpacked to disk: the
members are values, and a path that would leave its directory is refused. Format: deb(5), ar(5).
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from envtool.artifacts.conda_package import safe_path
from envtool.errors import ArchiveError

_MAGIC = b"!<arch>\n"
_HEADER_BYTES = 60


@dataclass(frozen=True)
class Member:
    """A file or a symbolic link of a package."""

    path: str
    content: bytes
    is_executable: bool
    link: str | None


@dataclass(frozen=True)
class Deb:
    """A whole package."""

    name: str
    version: str
    members: tuple[Member, ...]


def read(path: Path) -> Deb:
    """Read a package.

    Raises:
        ArchiveError: it is damaged, not a Debian package, or has an unsafe member.
    """
    try:
        parts = dict(_ar_members(path.read_bytes(), path.name))
        if parts.get("debian-binary", b"")[:2] != b"2.":
            raise ArchiveError(f"{path.name} is not a Debian package of format 2")
        files = {member.path: member.content for member in _tar(parts, "control.tar", path.name)}
        control = _control(files["control"])
        members = tuple(_tar(parts, "data.tar", path.name))
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError, KeyError) as error:
        raise ArchiveError(f"{path.name} is damaged: {error}", "remove it from the cache and run again") from error
    return Deb(control["Package"], control["Version"], members)


def _ar_members(data: bytes, owner: str) -> Iterator[tuple[str, bytes]]:
    if not data.startswith(_MAGIC):
        raise ArchiveError(f"{owner} is not an ar archive")
    offset = len(_MAGIC)
    while offset < len(data):
        header = data[offset : offset + _HEADER_BYTES]
        if len(header) < _HEADER_BYTES or header[58:] != b"`\n":
            raise ArchiveError(f"{owner} is damaged: no member header at byte {offset}")
        size_bytes = int(header[48:58])
        start = offset + _HEADER_BYTES
        if size_bytes < 0 or start + size_bytes > len(data):
            raise ArchiveError(f"{owner} is damaged: it ends inside of a member")
        yield header[:16].decode("ascii").rstrip().rstrip("/"), data[start : start + size_bytes]
        offset = start + size_bytes + size_bytes % 2


def _tar(parts: dict[str, bytes], stem: str, owner: str) -> Iterator[Member]:
    for name, data in parts.items():
        if name.partition(".tar")[0] + ".tar" == stem:
            return _tar_members(_decompress(name, data, owner), owner)
    raise ArchiveError(f"{owner} has no member {stem}")


def _decompress(name: str, data: bytes, owner: str) -> bytes:
    ending = name.rpartition(".tar")[2]
    if ending == "":
        return data
    if ending == ".xz":
        return lzma.decompress(data, format=lzma.FORMAT_XZ)
    if ending == ".gz":
        return gzip.decompress(data)
    if ending == ".zst":
        return _decompress_zst(data)
    raise ArchiveError(f"{owner} is packed in a way that is not known: {name}")


def _decompress_zst(data: bytes) -> bytes:
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as stream:
            return stream.read()
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _tar_members(data: bytes, owner: str) -> Iterator[Member]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for info in tar:
            path = safe_path(info.name, owner)
            if info.isdir():
                continue
            if not (info.isfile() or info.issym() or info.islnk()):
                raise ArchiveError(f"{owner} has a member that is neither a file nor a link: {path}")
            if info.islnk():
                safe_path(info.linkname, owner)
            # extractfile follows a hard link to the member that has its bytes.
            file = None if info.issym() else tar.extractfile(info)
            content = file.read() if file else b""
            link = info.linkname if info.issym() else None
            yield Member(path, content, bool(info.mode & 0o100), link)


def _control(text: bytes) -> dict[str, str]:
    fields = (line.partition(":") for line in text.decode("utf-8").splitlines() if line[:1] not in " \t")
    return {key: value.strip() for key, _, value in fields}
