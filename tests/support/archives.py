"""Conda archives and locks as others make them: written here by hand, not by the code under test."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile

# conda-build pads its placeholder to 255 bytes, so that any shorter prefix fits into a binary.
PLACEHOLDER = "/home/conda/feedstock_root/build_artifacts/tool_1700000000000/_h_env" + "_placehold" * 18 + "_placeh"


@dataclass(frozen=True)
class File:
    """One file of an archive; `link` makes it a symbolic link, `mode` and `prefix` are as in paths.json."""

    content: bytes = b""
    mode: int = 0o644
    link: str | None = None
    prefix: str | None = None


@dataclass(frozen=True)
class Archive:
    """A conda package.

    `lies` replaces the sha256 that paths.json states for a path, as a broken build tool might.
    """

    name: str
    files: dict[str, File]
    version: str = "1.0"
    depends: tuple[str, ...] = ()
    subdir: str = "linux-64"
    noarch: str | None = None
    entry_points: tuple[str, ...] = ()
    lies: dict[str, str] = field(default_factory=dict)
    license: str | None = "MIT"

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.version}-h1_0"

    def info(self) -> dict[str, bytes]:
        index = {
            "name": self.name, "version": self.version, "build": "h1_0", "build_number": 0, "depends": self.depends,
            "subdir": self.subdir, "timestamp": 1700000000000,
            **({"license": self.license} if self.license else {}),
        }  # fmt: skip
        if self.noarch:
            index["noarch"] = self.noarch
        paths = {"paths_version": 1, "paths": [self._path(name, file) for name, file in sorted(self.files.items())]}
        info = {"info/index.json": json.dumps(index).encode(), "info/paths.json": json.dumps(paths).encode()}
        if self.noarch == "python":
            link = {"noarch": {"type": "python", "entry_points": self.entry_points}, "package_metadata_version": 1}
            info["info/link.json"] = json.dumps(link).encode()
        return info

    def _path(self, name: str, file: File) -> dict[str, Any]:
        content = self.files[str(Path(name).parent / file.link)].content if file.link else file.content
        sha256 = self.lies.get(name, hashlib.sha256(content).hexdigest())
        entry = {"_path": name, "sha256": sha256, "size_in_bytes": len(content)}
        entry["path_type"] = "softlink" if file.link else "hardlink"
        if file.prefix:
            entry |= {"file_mode": file.prefix, "prefix_placeholder": PLACEHOLDER}
        return entry

    def write(self, directory: Path, suffix: str = ".conda") -> Path:
        """Write the archive into a channel directory and return its path."""
        path = directory / self.subdir / f"{self.stem}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".conda":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as outer:
                outer.writestr("metadata.json", json.dumps({"conda_pkg_format_version": 2}))
                outer.writestr(f"pkg-{self.stem}.tar.zst", _zst(_tar(self.files)))
                outer.writestr(f"info-{self.stem}.tar.zst", _zst(_tar(_as_files(self.info()))))
        else:
            import bz2

            path.write_bytes(bz2.compress(_tar({**_as_files(self.info()), **self.files})))
        return path


def locked(archive: Path, **changes: Any) -> LockedPackage:
    """The lock's entry for an archive on disk."""
    name, version, _ = archive.name.rpartition(".")[0].replace(".tar", "").rsplit("-", 2)
    data = archive.read_bytes()
    values: dict[str, Any] = {
        "manager": "conda", "name": name, "version": version, "platform": "linux-64", "url": archive.as_uri(),
        "sha256": hashlib.sha256(data).hexdigest(), "md5": hashlib.md5(data).hexdigest(),
    }  # fmt: skip
    return LockedPackage(**{**values, **changes})


def lock_of(*packages: LockedPackage, **metadata: str) -> Lockfile:
    """A lock of these packages for linux-64."""
    return Lockfile(
        packages=packages,
        channels=("test",),
        platforms=("linux-64",),
        sources=("environment.yml",),
        content_hash={"linux-64": "0" * 64},
        custom_metadata={"created_by": "tests", **metadata},
    )


def _as_files(info: dict[str, bytes]) -> dict[str, File]:
    return {name: File(content) for name, content in info.items()}


def _zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def _tar(files: dict[str, File]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, file in files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = file.mode, 1700000000
            if file.link:
                info.type, info.linkname = tarfile.SYMTYPE, file.link
                tar.addfile(info)
            else:
                info.size = len(file.content)
                tar.addfile(info, io.BytesIO(file.content))
    return buffer.getvalue()
