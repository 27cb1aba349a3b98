"""Reader of `.conda` archives, independent of envtool's own."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard


@dataclass(frozen=True)
class Archive:
    """The files below `info/` and the payload by path (a link has its target as content), and the payload's modes."""

    info: Mapping[str, bytes]
    files: Mapping[str, bytes]
    modes: Mapping[str, int]

    @property
    def index(self) -> dict[str, Any]:
        return dict(json.loads(self.info["index.json"]))

    @property
    def paths(self) -> list[dict[str, Any]]:
        return list(json.loads(self.info["paths.json"])["paths"])


def read(path: Path) -> Archive:
    """Read an archive into memory."""
    with zipfile.ZipFile(path) as archive:
        parts = {name.partition("-")[0]: archive.read(name) for name in archive.namelist()}
    info, _ = _untar(parts["info"])
    files, modes = _untar(parts["pkg"])
    return Archive({name.removeprefix("info/"): data for name, data in info.items()}, files, modes)


def _untar(data: bytes) -> tuple[dict[str, bytes], dict[str, int]]:
    files, modes = {}, {}
    with zstandard.ZstdDecompressor().stream_reader(data) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for info in tar:
            file = tar.extractfile(info) if info.isfile() else None
            files[info.name] = file.read() if file else info.linkname.encode()
            modes[info.name] = info.mode
    return files, modes
