"""The storage of a channel: a directory here; `envtool.channel.s3_storage` has the one for object stores."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from envtool.atomic_files import writing
from envtool.fetch.archive_cache import sha256_of


class Storage(Protocol):
    """Somewhere that files can be put, each whole or not at all."""

    @property
    def url(self) -> str:
        """Where clients find it, with `/` at its end."""

    def paths(self) -> Iterable[str]:
        """Every file that is there."""

    def read(self, path: str) -> bytes | None:
        """A small file, None where there is none."""

    def has(self, path: str, sha256: str) -> bool:
        """Whether a file is there with this content."""

    def put(self, path: str, source: Path, sha256: str) -> None:
        """Put a file there, whose content has this hash."""

    def remove(self, path: str) -> None:
        """Remove a file."""


class DirectoryStorage:
    """A directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def url(self) -> str:
        """Its file:// URL, with `/` at its end."""
        return f"{self.root.as_uri()}/"

    def paths(self) -> Iterable[str]:
        """Every file that is there."""
        return sorted(each.relative_to(self.root).as_posix() for each in self.root.rglob("*") if not each.is_dir())

    def read(self, path: str) -> bytes | None:
        """A small file, None where there is none."""
        target = self.root / path
        return target.read_bytes() if target.is_file() else None

    def has(self, path: str, sha256: str) -> bool:
        """Whether a file is there with this content; it is read."""
        target = self.root / path
        return target.is_file() and not target.is_symlink() and sha256_of(target) == sha256

    def put(self, path: str, source: Path, sha256: str) -> None:
        """Put a file there, whole or not at all."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with writing(target) as file, source.open("rb") as content:
            shutil.copyfileobj(content, file, 1 << 20)

    def remove(self, path: str) -> None:
        """Remove a file, and the directories that are empty then."""
        target = self.root / path
        target.unlink(missing_ok=True)
        for parent in target.parents:
            if parent == self.root or any(parent.iterdir()):
                break
            parent.rmdir()
