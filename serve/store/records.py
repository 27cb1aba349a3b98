"""A small file of records that all workers of a host share: read when it has changed, written whole, under a lock.

What cannot be written, because the disk is full, is kept in this process at least.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Generic, TypeVar

from serve import durable_files
from serve.store import host_lock

R = TypeVar("R")


class Records(Generic[R]):
    """The records of one file, by a key of theirs.

    Args:
        path: the file; its lock lies beside it, with the suffix `.lock`.
    """

    def __init__(self, path: Path, parse: Callable[[Mapping[str, Any]], R], key_of: Callable[[R], str]) -> None:
        self._path, self._parse, self._key_of = path, parse, key_of
        self._records: Mapping[str, R] = {}
        self._state: tuple[int, int, int] | None = None

    def read(self) -> Mapping[str, R]:
        """Return the records, the oldest first; those that are known where the file cannot be read."""
        try:
            state = self._look()
            if state != self._state:
                records = map(self._parse, json.loads(self._path.read_bytes()))
                self._records = {self._key_of(record): record for record in records}
                self._state = state
        except (OSError, ValueError, TypeError, AttributeError):
            return self._records  # a damaged file must not stop a reload; it is written anew with the next change
        return self._records

    def change(self, edit: Callable[[Mapping[str, R]], Mapping[str, R]]) -> None:
        """Replace the records.

        Args:
            edit: gets the present ones, and returns the new ones; called once more where the disk takes nothing.
        """
        try:
            with host_lock.hold(self._path.with_suffix(".lock")):
                self._records = edit(self.read())
                with contextlib.suppress(OSError):
                    self._write()
        except OSError:  # not even the lock could be had
            self._records = edit(self._records)

    def _write(self) -> None:
        content = json.dumps([asdict(record) for record in self._records.values()], indent=1)  # type: ignore[call-overload]
        durable_files.replace_file(self._path, content.encode() + b"\n")
        self._state = self._look()

    def _look(self) -> tuple[int, int, int]:
        seen = self._path.stat()
        return seen.st_ino, seen.st_size, seen.st_mtime_ns
