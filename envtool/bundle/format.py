"""The two forms of a bundle: a directory, and one file that is that directory as a tar with `install.pyz` behind it.

Python runs a file that ends with a zip archive, and tar ignores what comes after its end. So one file can be run
(`python3 serving.pyz`) and listed (`tar tf serving.pyz`); Python 3.12 and older cannot run a zip archive of more than
4 GB. Nothing is compressed, since archives and wheels are; every file can be read where it is.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from envtool.bundle import manifest as manifest_module
from envtool.bundle.manifest import MANIFEST, SIGNATURE, STARTER, Manifest
from envtool.errors import BundleError

CHUNK_BYTES = 1 << 20
_LARGEST_MANIFEST_BYTES = 1 << 28
_DAMAGED_HINT = "copy or make it again; nothing was installed"


@dataclass(frozen=True)
class Place:
    """Where a file of a bundle lies."""

    container: Path
    offset: int
    size_bytes: int

    def open(self) -> BinaryIO:
        """The container, at the first byte of the file."""
        file = self.container.open("rb")
        file.seek(self.offset)
        return file


@dataclass(frozen=True)
class Bundle:
    """A bundle whose structure is right; its files are still to be hashed by whoever reads them."""

    path: Path
    content: bytes
    manifest: Manifest
    signature: bytes | None
    places: Mapping[str, Place]

    def chunks(self, path: str) -> Iterator[bytes]:
        """The bytes of a file, hashed while they are read.

        Raises:
            BundleError: they are not those that the manifest names; raised after the last of them.
        """
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
    """Look at a bundle of either form.

    Raises:
        BundleError: it is not found, not a whole bundle, or holds something that its manifest does not name.
    """
    try:
        places = _in_directory(path) if path.is_dir() else _in_file(path)
        found = _read(path, places)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", _DAMAGED_HINT) from error
    except tarfile.TarError as error:
        raise BundleError(f"{path} is not a whole bundle: {error}", _DAMAGED_HINT) from error
    for problem in _differences(found):
        raise BundleError(f"{path} is damaged or altered: {problem}", _DAMAGED_HINT)
    return found


def _read(path: Path, places: Mapping[str, Place]) -> Bundle:
    if MANIFEST not in places or places[MANIFEST].size_bytes > _LARGEST_MANIFEST_BYTES:
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}", "envtool bundle create makes bundles")
    texts = {}
    for name in (MANIFEST, SIGNATURE):
        if name in places:
            with places[name].open() as file:
                texts[name] = file.read(places[name].size_bytes)
    manifest = manifest_module.parse(texts[MANIFEST], str(path))
    rest = {name: place for name, place in places.items() if name not in texts}
    return Bundle(path, texts[MANIFEST], manifest, texts.get(SIGNATURE), rest)


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
                    raise BundleError(
                        f"{path} ends in the middle of {member.name}: it is not a whole bundle", _DAMAGED_HINT
                    )
                places[member.name] = Place(path, member.offset_data, member.size)
        _refuse_other_end(path, file, places, end)
    return places


def _refuse_other_end(path: Path, file: BinaryIO, places: Mapping[str, Place], end: int) -> None:
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
