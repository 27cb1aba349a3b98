"""Writing a bundle in either of its forms; equal content gives equal bytes.

Out of scope: what belongs into one (`envtool.bundle.create`) and how it is read (`envtool.bundle.format`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import envtool
from envtool.atomic_files import write_atomically, writing
from envtool.bundle.format import CHUNK_BYTES
from envtool.bundle.manifest import LOCKFILE, MANIFEST, SIGNATURE, STARTER, Manifest, parse
from envtool.console import Task
from envtool.errors import BundleError
from envtool.fetch.archive_cache import sha256_of

_MTIME_S = 315_619_200  # 1980-01-02, which a zip archive can say in every time zone
_ZIP_TIME = (1980, 1, 2, 0, 0, 0)
# What runs before anything is installed: modules that need nothing but the standard library.
_STARTER_MODULES = (
    "__init__.py", "errors.py", "masking.py", "console.py", "paths.py",
    "bundle/__init__.py", "bundle/manifest.py", "bundle/format.py", "bundle/bootstrap.py",
)  # fmt: skip
_STARTER_MAIN = """\
import sys

if sys.version_info < (3, 9):
    sys.exit("error: expected Python 3.9 or newer, found %d.%d" % sys.version_info[:2])
from envtool.bundle.bootstrap import main

main()
"""


def starter() -> bytes:
    """The zip archive that Python runs on the other machine."""
    buffer = io.BytesIO()
    root = Path(envtool.__file__).parent
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _ZIP_TIME), _STARTER_MAIN)
        for name in _STARTER_MODULES:
            archive.writestr(zipfile.ZipInfo(f"envtool/{name}", _ZIP_TIME), (root / name).read_bytes())
    return buffer.getvalue()


def write_file(
    target: Path, manifest: Manifest, signature: bytes | None, sources: Mapping[str, Path], task: Task
) -> str:
    """Write a bundle as one file; it appears whole or not at all.

    Returns:
        The sha256 of the file.
    """
    with writing(target) as file:
        output = _Output(file, task)
        with tarfile.open(
            fileobj=cast(BinaryIO, output), mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK_BYTES
        ) as tar:
            for name, content in _first(manifest, signature):
                tar.addfile(_member(name, len(content)), io.BytesIO(content))
            for name in _order(manifest):
                with sources[name].open("rb") as source:
                    tar.addfile(_member(name, manifest.files[name].size_bytes), source)
        output.write(sources[STARTER].read_bytes())
    return output.digest.hexdigest()


def write_directory(
    root: Path, manifest: Manifest, signature: bytes | None, sources: Mapping[str, Path], task: Task
) -> None:
    """Write a bundle as a directory, or bring one up to date.

    A file that is right already is left as it is, so that rsync moves what is new and nothing else.

    Args:
        root: the directory: absent, empty, or a bundle, which `refuse_foreign` makes sure of.
    """
    root.mkdir(parents=True, exist_ok=True)
    # First, so that a directory is known as a bundle from then on; until it is whole, nothing can be installed from it.
    for name, content in _first(manifest, signature):
        if not ((root / name).is_file() and (root / name).read_bytes() == content):
            write_atomically(root / name, content)
    for name in _order(manifest):
        target, expected = root / name, manifest.files[name]
        if not (target.is_file() and sha256_of(target) == expected.sha256):
            target.parent.mkdir(parents=True, exist_ok=True)
            with writing(target) as file, sources[name].open("rb") as source:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
        task.advance(expected.size_bytes)
    _remove_others(root, manifest, is_signed=signature is not None)


class _Output:
    """A file that is hashed and shown while it is written."""

    def __init__(self, file: BinaryIO, task: Task) -> None:
        self.digest = hashlib.sha256()
        self._file = file
        self._task = task

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self._task.advance(len(data))
        return self._file.write(data)


def _first(manifest: Manifest, signature: bytes | None) -> Iterator[tuple[str, bytes]]:
    yield MANIFEST, manifest.format()
    if signature is not None:
        yield SIGNATURE, signature


def _order(manifest: Manifest) -> list[str]:
    first = [LOCKFILE, STARTER]
    return [*first, *sorted(path for path in manifest.files if path not in first)]


def _member(name: str, size_bytes: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size_bytes, _MTIME_S, 0o644
    return info


def refuse_foreign(target: Path, *, as_directory: bool) -> None:
    """Refuse to write a bundle over something else.

    Raises:
        BundleError: there is something that is no bundle of the same form; a file may be any file.
    """
    if not target.exists():
        return
    if target.is_dir() is not as_directory:
        form = "directory" if target.is_dir() else "file"
        raise BundleError(f"{target} is a {form} already; nothing in it was touched", "name another place")
    if not as_directory or not any(target.iterdir()):
        return
    try:
        parse((target / MANIFEST).read_bytes(), str(target))
    except (OSError, BundleError):
        message = f"{target} holds something other than a bundle; nothing in it was touched"
        raise BundleError(message, "name another place") from None


def _remove_others(root: Path, manifest: Manifest, *, is_signed: bool) -> None:
    # Only what a bundle has: whatever else somebody put here is not ours to remove.
    if not is_signed:
        (root / SIGNATURE).unlink(missing_ok=True)
    for path in sorted((root / "files").glob("*/*")):
        if path.relative_to(root).as_posix() not in manifest.files:
            path.unlink()
            with contextlib.suppress(OSError):
                path.parent.rmdir()
