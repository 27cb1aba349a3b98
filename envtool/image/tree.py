"""The files of a prefix as they are in an image, by layer: each conda package has one, with its byte-code and its
record; the wheels have one together; what belongs to nobody (the notes of conda and of envtool) comes last."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envtool.artifacts.relocation import replace_text, restore, substitute
from envtool.package_cache.materialize import describe_path, fill_record
from envtool.prefix.bytecode import compile_all, source_of
from envtool.prefix.prefix import Prefix
from envtool.scratch import scratch_directory
from envtool.verify import Inventory

# The environment's path in an image, as in the Dockerfile of `envtool deploy render docker`.
TARGET = Path("/opt/env")
WHEELS, NOTES = "wheels", "notes"
_HISTORY = ["==> 1980-01-02 00:00:00 <==", "# cmd: envtool image"]


@dataclass(frozen=True)
class Member:
    """One entry of a layer."""

    path: str  # in the image, without the slash before it
    # What it holds, or the file that has it, or what reads it; None for a directory or a link.
    content: bytes | Path | Callable[[], bytes] | None = None
    mode: int = 0o644
    link: str | None = None


class Tree:
    """A prefix that was just made, seen at the path that it has in an image."""

    def __init__(self, prefix: Prefix, inventory: Inventory) -> None:
        self._prefix, self._inventory = prefix, inventory
        self._root, self._old, self._new = str(prefix.path), os.fsencode(prefix.path), os.fsencode(TARGET)
        self._records = {
            path.name: json.loads(path.read_bytes()) for path in sorted(prefix.meta.glob("*.json")) if path.is_file()
        }

    def layers(self) -> Iterator[tuple[str, list[Member]]]:
        """The layers in their order, each by its name, which a conda package's has from the package."""
        owners = {path: record["name"] for record in self._records.values() for path in record["files"]}
        names = sorted({*owners.values(), *(record["name"] for record in self._records.values())})
        found: dict[str, list[Member]] = {name: [] for name in [*names, WHEELS, NOTES]}
        for path, entry in self._inventory.entries.items():
            owner = owners.get(path) or owners.get(source_of(path) or "") or WHEELS
            found[owner].append(self._link(path) if entry.kind == "link" else self._file(path))
        for name, record in self._records.items():
            found[record["name"]].append(_noted(name, self._record(record)))
        found[NOTES] += self._notes()
        found[NOTES] += [
            Member(_placed(os.path.relpath(directory, self._root)), mode=0o755)
            for directory, below, names in sorted(os.walk(self._root))
            if not below and not names
        ]
        return ((name, members) for name, members in found.items() if members)

    def _link(self, path: str) -> Member:
        target = os.readlink(f"{self._root}/{path}")  # noqa: PTH115 - a Path for each of 30,000 files is slow
        return Member(_placed(path), mode=0o777, link=target.replace(self._root, str(TARGET)))

    def _file(self, path: str) -> Member:
        mode = 0o755 if self._inventory.entries[path].is_executable else 0o644
        is_other = self._inventory.entries[path].names_prefix or path in self._recompiled or self._is_record(path)
        return Member(
            _placed(path), functools.partial(self._read, path) if is_other else self._prefix.path / path, mode
        )

    def _is_record(self, path: str) -> bool:
        declared = self._inventory.declared.get(path)
        return path.endswith(".dist-info/RECORD") and declared is not None and declared.package[0] == "pip"

    def _read(self, path: str) -> bytes:
        """The content of a file in the image."""
        if path in self._recompiled:
            return self._recompiled[path]
        content = Path(self._root, path).read_bytes()
        if self._is_record(path):
            here = Path(path).parent.parent
            content = fill_record(content, lambda name: self._read(os.path.normpath(f"{here}/{name}")))
        if not self._inventory.entries[path].names_prefix:
            return content
        declared = self._inventory.declared.get(path)
        placeholder = declared.placeholder if declared else None
        if placeholder is not None and placeholder.is_binary:
            return substitute(restore(content, self._old, placeholder), self._new, placeholder)
        return content.replace(self._old, self._new)

    @functools.cached_property
    def _recompiled(self) -> Mapping[str, bytes]:
        # Byte-code holds the hash and the strings of its module.
        entries = self._inventory.entries
        modules = {path: str(source_of(path)) for path in entries if source_of(path)}
        stale = [path for path, module in modules.items() if module in entries and entries[module].names_prefix]
        with scratch_directory() as scratch:
            for path in stale:
                module = scratch / modules[path]
                module.parent.mkdir(parents=True, exist_ok=True)
                module.write_bytes(Path(self._root, modules[path]).read_bytes().replace(self._old, self._new))
            if stale:
                compile_all(scratch, self._prefix.python)
            return {path: (scratch / path).read_bytes() for path in stale}

    def _record(self, record: Mapping[str, Any]) -> bytes:
        content = replace_text(record, self._root, str(TARGET))
        for path in content["paths_data"]["paths"]:
            describe_path(path, self._read)
            if path.get("prefix_placeholder") and "sha256_in_prefix" in path:  # its size depends on where it was made
                path["size_in_bytes"] = len(self._read(path["_path"]))
        return json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"

    def _notes(self) -> Iterator[Member]:
        for path in sorted(self._prefix.meta.iterdir()):
            if path.name == "history":  # it has the time and the command
                yield _noted(path.name, "\n".join([*_HISTORY, *path.read_text().split("\n")[2:]]).encode())
            elif path.is_file() and path.suffix != ".json" and not path.name.startswith("."):
                yield _noted(path.name, path.read_bytes())


def _placed(path: str) -> str:
    return f"{TARGET}/{path}"[1:]


def _noted(name: str, content: bytes) -> Member:
    return Member(_placed(f"conda-meta/{name}"), content)


def grouped(layers: Iterator[tuple[str, list[Member]]], most: int) -> list[tuple[str, list[Member]]]:
    """The layers, some of them together, by the hash of their name, where there are more than an image can have."""
    found = list(layers)
    if len(found) <= most:
        return found
    groups: dict[str, list[Member]] = {}
    for name, members in found:
        bucket = int(hashlib.sha256(name.encode()).hexdigest(), 16) % (most - 2)
        groups.setdefault(name if name in (WHEELS, NOTES) else f"packages {bucket:03}", []).extend(members)
    return sorted(groups.items(), key=lambda each: (each[0] == NOTES, each[0] == WHEELS, each[0]))
