"""The format of a bundle: a manifest that names all of it, so that one signature covers all, and two forms, a directory
and one file. Python runs a file that ends with a zip archive (before 3.13 only one of up to 4 GB), and tar ignores what
comes after its end: so the file can be run (`python3 serving.pyz`) and listed (`tar tf serving.pyz`). Nothing is
compressed, since archives and wheels are; every file can be read where it is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from envtool.errors import BundleError

FORMAT = "envtool-bundle-1"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
LOCKFILE = "conda-lock.yml"
STARTER = "install.pyz"
# The glibc that the tools of a bundle need: Debian 10, Ubuntu 20.04 and RHEL 8 have it.
TOOLS_GLIBC = "2.28"
_FILE = re.compile(r"files/(?P<sha256>[0-9a-f]{64})/[^/\x00-\x1f]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FOREIGN_HINT = "envtool bundle create makes bundles; is this one from a newer envtool?"


@dataclass(frozen=True)
class File:
    """One file of a bundle."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds."""

    created_by: str
    platforms: tuple[str, ...]
    categories: tuple[str, ...]
    files: Mapping[str, File]  # every file but the manifest and its signature, by path
    # The wheels that run envtool, as paths, by platform and Python version such as `3.11`.
    tools: Mapping[str, Mapping[str, tuple[str, ...]]]

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size_bytes for file in self.files.values())

    def format(self) -> bytes:
        """The manifest as bytes: equal values give equal bytes."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n").encode()


def path_of(name: str, sha256: str) -> str:
    """The path of an archive or wheel in a bundle; by its hash, since two channels may have one name for two files."""
    return f"files/{sha256}/{name}"


def parse(content: bytes, owner: str) -> Manifest:
    """Read a manifest; unknown keys are left alone. Raises BundleError if it is malformed or of another format."""
    try:
        value: dict[str, Any] = json.loads(content)
        found = value.get("format")
    except (ValueError, AttributeError) as error:
        raise BundleError(f"{owner}: {MANIFEST} is not a JSON object: {error}", _FOREIGN_HINT) from None
    if found != FORMAT:
        raise BundleError(f"{owner}: expected a bundle of the format {FORMAT}, found {found!r}", _FOREIGN_HINT)
    try:
        manifest = Manifest(
            created_by=str(value["created_by"]),
            platforms=tuple(map(str, value["platforms"])),
            categories=tuple(map(str, value["categories"])),
            files={path: File(str(each["sha256"]), int(each["size_bytes"])) for path, each in value["files"].items()},
            tools={
                platform: {python: tuple(map(str, paths)) for python, paths in by_python.items()}
                for platform, by_python in value["tools"].items()
            },
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(f"{owner}: {MANIFEST} is malformed: {error!r}", _FOREIGN_HINT) from None
    for problem in _problems(manifest):
        raise BundleError(f"{owner}: {MANIFEST} is malformed: {problem}", _FOREIGN_HINT)
    return manifest


def _problems(manifest: Manifest) -> Iterator[str]:
    for path, file in manifest.files.items():
        match = _FILE.fullmatch(path)
        if not match and path not in (LOCKFILE, STARTER):
            yield f"{path!r} does not belong in a bundle"
        elif match and match["sha256"] != file.sha256:
            yield f"{path} is under another hash than its own, {file.sha256}"
        elif not _SHA256.fullmatch(file.sha256) or file.size_bytes < 0:
            yield f"{path} has no sha256 and size"
    for path in (LOCKFILE, STARTER):
        if path not in manifest.files:
            yield f"it does not name {path}"
    tools = {path for by_python in manifest.tools.values() for paths in by_python.values() for path in paths}
    yield from (f"a tool is not in it: {path}" for path in sorted(tools - manifest.files.keys()))


CHUNK_BYTES = 1 << 20
_LARGEST_MANIFEST_BYTES = 1 << 28
_DAMAGED_HINT = "copy or make it again; nothing was installed"


class Place(NamedTuple):
    """Where a file of a bundle lies."""

    container: Path
    offset: int
    size_bytes: int

    def open(self) -> BinaryIO:
        """The container, at the first byte of the file."""
        file = self.container.open("rb")
        file.seek(self.offset)
        return file


class Bundle(NamedTuple):
    """A bundle whose structure is right; its files are still to be hashed by whoever reads them."""

    path: Path
    content: bytes
    manifest: Manifest
    signature: bytes | None
    places: Mapping[str, Place]

    def chunks(self, path: str) -> Iterator[bytes]:
        """The bytes of a file, hashed meanwhile. Raises BundleError, after the last, if they are not the manifest's."""
        place, digest = self.places[path], hashlib.sha256()
        left = place.size_bytes
        with place.open() as file:
            while left and (chunk := file.read(min(left, CHUNK_BYTES))):
                left -= len(chunk)
                digest.update(chunk)
                yield chunk
        expected = self.manifest.files[path].sha256
        if left or digest.hexdigest() != expected:
            raise BundleError(
                f"{path} in {self.path} is damaged or altered:\n  expected sha256:{expected}\n"
                f"  actual   sha256:{digest.hexdigest()}",
                _DAMAGED_HINT,
            )

    def read(self, path: str) -> bytes:
        """A small file, proven."""
        return b"".join(self.chunks(path))


def open_bundle(path: Path) -> Bundle:
    """Look at a bundle of either form. Raises BundleError if it is not whole, or holds what its manifest lacks."""
    try:
        places = _in_directory(path) if path.is_dir() else _in_file(path)
        if MANIFEST not in places or places[MANIFEST].size_bytes > _LARGEST_MANIFEST_BYTES:
            raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}", "envtool bundle create makes bundles")
        texts = {}
        for name in (MANIFEST, SIGNATURE):
            if name in places:
                with places[name].open() as file:
                    texts[name] = file.read(places[name].size_bytes)
        manifest = parse(texts[MANIFEST], str(path))
        rest = {name: place for name, place in places.items() if name not in texts}
        found = Bundle(path, texts[MANIFEST], manifest, texts.get(SIGNATURE), rest)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", _DAMAGED_HINT) from error
    except tarfile.TarError as error:
        raise BundleError(f"{path} is not a whole bundle: {error}", _DAMAGED_HINT) from error
    for problem in _differences(found):
        raise BundleError(f"{path} is damaged or altered: {problem}", _DAMAGED_HINT)
    return found


def _differences(bundle: Bundle) -> Iterator[str]:
    expected = bundle.manifest.files
    for path in expected:
        if path not in bundle.places:
            yield f"{path} is missing"
        elif bundle.places[path].size_bytes != expected[path].size_bytes:
            found = bundle.places[path].size_bytes
            yield f"{path} has {found:,} bytes, expected {expected[path].size_bytes:,}"
    yield from (f"{path} is not in its manifest" for path in bundle.places if path not in expected)


def _in_directory(root: Path) -> dict[str, Place]:
    places = {}
    for directory, names, files in os.walk(root):
        for name in [*files, *(each for each in names if (Path(directory) / each).is_symlink())]:
            path = Path(directory) / name
            if not stat.S_ISREG(path.lstat().st_mode):
                raise BundleError(f"{path} is not a regular file, and does not belong in a bundle", _DAMAGED_HINT)
            places[path.relative_to(root).as_posix()] = Place(path, 0, path.stat().st_size)
    return places


def _in_file(path: Path) -> dict[str, Place]:
    places: dict[str, Place] = {}
    with path.open("rb") as file:
        total_bytes = file.seek(0, os.SEEK_END)
        end = 0
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isreg() or member.name in places:
                    raise BundleError(f"{member.name} does not belong in the bundle {path}", _DAMAGED_HINT)
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if end > total_bytes:
                    message = f"{path} ends in the middle of {member.name}: it is not a whole bundle"
                    raise BundleError(message, _DAMAGED_HINT)
                places[member.name] = Place(path, member.offset_data, member.size)
        # What Python runs is behind the tar, and has to be the install.pyz that the manifest names.
        starter = places.get(STARTER)
        if starter is None:
            raise BundleError(f"{path} is not a whole bundle: it has no {STARTER}", _DAMAGED_HINT)
        padding = -(-(end + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - end
        file.seek(starter.offset)
        expected = b"\0" * padding + file.read(starter.size_bytes)
        file.seek(end)
        if file.read(len(expected) + 1) != expected:
            raise BundleError(f"{path} does not end with its {STARTER}: it is cut off, or was altered", _DAMAGED_HINT)
    return places
