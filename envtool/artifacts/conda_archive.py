"""Contents of package archives: `info/` and the payload, from .conda and .tar.bz2 alike. Source: the conda package
specification (CEP 26, .conda format version 2)."""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import os
import queue
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from envtool.artifacts.relocation import without_rewritten
from envtool.errors import ArchiveError

if TYPE_CHECKING:
    from typing_extensions import Self

# What the standard library raises over a damaged archive: RuntimeError for another version of zip, or a password.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError)
DAMAGED = (*ZIP_ERRORS, tarfile.TarError, KeyError)
_CHUNK_BYTES = 1 << 20
_PIECES = 4
# Far more than packages have, and little enough to be read by any machine: a kilobyte can unpack to gigabytes.
_MOST_MEMBERS = 200_000
_LARGEST_READ_BYTES = 16 << 20
_LARGEST_INFO_BYTES = 256 << 20
_LARGEST_HEADER_BYTES = 1 << 20
# The payload against the size of the archive: real ones unpack to some ten times.
_MOST_TIMES, _ALWAYS_ALLOWED_BYTES = 200, 256 << 20
# What is read of info/.
STATED = ("index.json", "paths.json", "link.json", "files", "has_prefix", "no_link")
_RECORD = ".dist-info/RECORD"
_HEADERS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


class ReadAhead:
    """What a thread reads from another stream, in order; that one must not be closed before."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._pieces: queue.Queue[bytes | BaseException] = queue.Queue(_PIECES)
        self._stopped = threading.Event()
        self._left = memoryview(b"")
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self._thread.start()

    def read(self, size: int) -> bytes:
        """Up to so many bytes; none at the end."""
        while not self._left and not self._is_over:
            piece = self._pieces.get()
            if isinstance(piece, BaseException):
                self._is_over = True
                raise piece
            self._is_over = not piece
            self._left = memoryview(piece)
        found = bytes(self._left[:size])
        self._left = self._left[size:]
        return found

    def close(self) -> None:
        """End the thread, whatever has not been read."""
        self._stopped.set()
        while self._thread.is_alive():
            with suppress(queue.Empty):  # it may be waiting for room
                self._pieces.get_nowait()
            self._thread.join(0.001)

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                piece = self._source.read(_CHUNK_BYTES)
                self._pieces.put(piece)
                if not piece:
                    return
        except BaseException as error:  # raised again where it is read
            self._pieces.put(error)


class _BoundedTarInfo(tarfile.TarInfo):
    """A member whose headers, which `tarfile` reads whole, have a usual size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADERS and member.size > _LARGEST_HEADER_BYTES:
            raise ArchiveError(f"a header of {member.size} bytes: expected at most {_LARGEST_HEADER_BYTES}")
        return member


def bounded(archive: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a part, without `./` before their names. Raises ArchiveError if they are too many or too large."""
    info_bytes = payload_bytes = 0
    most_bytes = max(_ALWAYS_ALLOWED_BYTES, _MOST_TIMES * archive.stat().st_size)
    for count, member in enumerate(tar):
        member.name = plain(member.name)
        member.linkname = plain(member.linkname) if member.islnk() else member.linkname
        top, _slash, name = member.name.partition("/")
        if top == "info":
            info_bytes += member.size
        else:
            payload_bytes += member.size
        is_stated = top == "info" and name in STATED
        is_whole = is_stated or member.name.endswith(_RECORD)
        if count >= _MOST_MEMBERS:
            raise ArchiveError(f"{archive} has more than {_MOST_MEMBERS} members")
        if (is_whole and member.size > _LARGEST_READ_BYTES) or info_bytes > _LARGEST_INFO_BYTES:
            raise ArchiveError(f"{archive}: {member.name} is too large: {member.size} bytes")
        if payload_bytes > most_bytes:
            raise ArchiveError(f"{archive} unpacks to more than {most_bytes} bytes, {_MOST_TIMES} times its size")
        if is_stated and not member.isreg():
            raise ArchiveError(f"{archive}: {member.name} is not a plain file")
        yield member


def plain(path: str) -> str:
    """The path of a member of an archive as `paths.json` has it: without `./` before it."""
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return path


def read_info(archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Read files of `info/`. Raises ArchiveError if it is not a valid package archive."""
    wanted = {f"info/{name}": name for name in names}
    found: dict[str, bytes] = {}
    try:
        with open_part(archive, "info") as tar:
            for member in bounded(archive, tar):
                name = wanted.get(member.name)
                if name is not None and (file := tar.extractfile(member)) is not None:
                    found[name] = file.read()
                is_past = not member.name.startswith("info/") and "paths.json" in found
                if is_past or len(found) == len(wanted):
                    break  # in a .tar.bz2 the payload comes after info/, and unpacking it takes long
    except DAMAGED as error:
        raise ArchiveError(f"{archive} is not a valid package archive: {error}") from error
    return found


def read_info_json(archive: Path, name: str) -> dict[str, Any]:
    """Read one JSON file of `info/`. Raises ArchiveError if it is not found or no JSON, or the archive is not one."""
    return parse_info(archive, read_info(archive, [name]), name)


def parse_info(archive: Path, info: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Parse one of the files of `info/`. Raises ArchiveError if it is not found, or no JSON."""
    if name not in info:
        raise ArchiveError(f"{archive} has no info/{name}")
    if info[name].count(b"{") + info[name].count(b"[") > _MOST_MEMBERS:
        raise ArchiveError(f"info/{name} of {archive} has more than {_MOST_MEMBERS} entries")
    try:
        content = json.loads(info[name])
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"info/{name} of {archive} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ArchiveError(f"info/{name} of {archive} is not a JSON object")
    return content


class Member(NamedTuple):
    """One file or link of an archive's payload."""

    path: str
    is_link: bool
    is_executable: bool
    sha256: str  # hash of its content, or of the target of a link
    normalized_sha256: str  # the same, but of a RECORD without the hashes of scripts, as the env digest counts it


def read_payload(archive: Path) -> list[Member]:
    """Read every file of an archive but `info/`. Raises ArchiveError if it is not a valid package archive."""
    members: dict[str, Member] = {}
    try:
        with open_part(archive, "pkg") as tar:
            for info in bounded(archive, tar):
                if not info.isdir() and not info.name.startswith("info/"):
                    members[info.name] = read_member(tar, info, members)
    except DAMAGED as error:
        raise ArchiveError(f"{archive} is not a valid package archive: {error}") from error
    return list(members.values())


def read_member(
    tar: tarfile.TarFile, info: tarfile.TarInfo, members: Mapping[str, Member],
    write: Callable[[bytes], object] | None = None,
) -> Member:  # fmt: skip
    """Read one file or link of an archive's payload."""
    if info.issym():
        target = os.fsencode(info.linkname)
        sha256 = hashlib.sha256(target).hexdigest()
        return Member(info.name, True, False, sha256, sha256)
    if info.islnk():
        return members[info.linkname]._replace(path=info.name)
    digest = hashlib.sha256()
    normalized = None
    if (file := tar.extractfile(info)) is not None:
        is_record = info.name.endswith(_RECORD)
        while chunk := file.read(info.size if is_record else _CHUNK_BYTES):
            digest.update(chunk)
            normalized = hashlib.sha256(without_rewritten(chunk)).hexdigest() if is_record else None
            if write is not None:
                write(chunk)
    sha256 = digest.hexdigest()
    return Member(info.name, False, bool(info.mode & stat.S_IXUSR), sha256, normalized or sha256)


@contextmanager
def open_part(archive: Path, part: str) -> Iterator[tarfile.TarFile]:
    """Open a part of an archive, `pkg` or `info`, to be read once; a .tar.bz2 holds both in one."""
    with _open_stream(archive, part) as stream, closing(ReadAhead(stream)) as ahead:
        yield tarfile.open(fileobj=cast("IO[bytes]", ahead), mode="r|", tarinfo=_BoundedTarInfo)  # noqa: SIM115 - closed with its stream


@contextmanager
def _open_stream(archive: Path, part: str) -> Iterator[IO[bytes]]:
    if archive.name.endswith(".conda"):
        with zipfile.ZipFile(archive) as outer:
            inner = next((each for each in outer.namelist() if each.startswith(f"{part}-")), f"{part}-*.tar.zst")
            if part == "pkg" and inner not in outer.namelist() and any("info-" in each for each in outer.namelist()):
                yield io.BytesIO(bytes(2 * tarfile.BLOCKSIZE))  # nothing but info/
                return
            with outer.open(inner) as compressed, _decompress(archive, compressed) as stream:
                yield stream
    else:
        with bz2.open(archive) as stream:
            yield stream


@contextmanager
def _decompress(archive: Path, compressed: IO[bytes]) -> Iterator[IO[bytes]]:
    import zstandard

    with zstandard.ZstdDecompressor().stream_reader(compressed, read_across_frames=True) as stream:
        try:
            yield cast("IO[bytes]", stream)
        except zstandard.ZstdError as error:
            raise ArchiveError(f"{archive} has damaged zstd data: {error}") from error
