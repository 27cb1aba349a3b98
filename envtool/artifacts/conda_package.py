"""A conda package before it is packed, and its `.conda` archive. The build string is a digest of all that the archive
depends on, so that no cache ever holds a stale package. The same package gives the same bytes everywhere: order, times,
owners and modes are fixed, and zstd runs in one thread; another libzstd may pack the same content otherwise. Source:
CEP 26 (names), CEP 34 (what is in a package) and CEP 35 (the `.conda` file)."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterable
from typing import Any, NamedTuple

from envtool.errors import ArchiveError

PLACEHOLDER = "/opt/envtool_prefix_placeholder" + "_placehold" * 16
"""What stands for the prefix in text files; as long as conda's own, which some tools expect of a placeholder."""


class Entry(NamedTuple):
    """One file or symbolic link."""

    path: str
    content: bytes  # of a link, that of the file that it points to
    is_executable: bool = False
    link: str | None = None
    has_placeholder: bool = False

    @property
    def sha256(self) -> str:
        """Hash of the content."""
        return hashlib.sha256(self.content).hexdigest()


class Package(NamedTuple):
    """A whole package."""

    name: str
    version: str
    build_number: int
    subdir: str
    depends: tuple[str, ...]
    license: str
    summary: str
    home: str | None
    # What goes into the prefix; a noarch Python package has `site-packages/` and `python-scripts/`.
    files: tuple[Entry, ...]
    # What goes into `info/` only: licences and the recipe, with paths relative to `info/`.
    about: tuple[Entry, ...] = ()
    entry_points: tuple[str, ...] = ()
    build_suffix: str = ""
    build_prefix: str = ""
    is_generic: bool = False

    @property
    def noarch(self) -> str | None:
        """`python` or `generic`; None for a package of one platform."""
        if self.subdir != "noarch":
            return None
        return "generic" if self.is_generic else "python"

    @property
    def digest(self) -> str:
        """A sha256 of all that the archive holds."""
        digest = hashlib.sha256()
        facts = [self.name, self.version, self.build_number, self.subdir, self.license, self.summary, self.home]
        digest.update(json.dumps([*facts, self.depends, self.entry_points, *["generic"] * self.is_generic]).encode())
        for group in (self.files, self.about):
            for entry in sorted(group, key=lambda each: each.path):
                row = [entry.path, entry.sha256, entry.is_executable, entry.link, entry.has_placeholder]
                digest.update(json.dumps(row).encode())
        return digest.hexdigest()

    @property
    def build(self) -> str:
        """The build string: a digest of the content and the build number, in the form that conda's tools use."""
        letters = "pyh" if self.noarch == "python" else f"{self.build_prefix}h"
        return f"{letters}{self.digest[:10]}_{self.build_number}{self.build_suffix}"

    @property
    def stem(self) -> str:
        """The file name of the archive without its ending."""
        return f"{self.name}-{self.version}-{self.build}"

    @property
    def file_name(self) -> str:
        """The file name of the archive."""
        return f"{self.stem}.conda"


def safe_path(path: str, owner: str) -> str:
    """The path in its plain form (`a/b` of `./a//b`). Raises ArchiveError if it leaves the directory or is no path."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or re.search(r"[\x00-\x1f\\]", path):
        hint = "nothing was unpacked; the file was not made by a packaging tool"
        raise ArchiveError(f"{owner} has an unsafe member path: {path!r}", hint)
    return "/".join(parts)


# Late enough to be a valid zip time in every time zone: a wheel made from installed files must not fail.
MTIME_S = 315_619_200  # 1980-01-02T00:00:00Z
_ZIP_TIME = (1980, 1, 2, 0, 0, 0)
_LEVEL = 12  # 19 is 9 % smaller and takes six times as long


def pack(package: Package) -> bytes:
    """The archive of a package. Raises ArchiveError if two files of the package have one path, or a path is unsafe."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        _store(archive, "metadata.json", json.dumps({"conda_pkg_format_version": 2}).encode())
        _store(archive, f"pkg-{package.stem}.tar.zst", _compressed_tar(package.files, package.file_name))
        _store(archive, f"info-{package.stem}.tar.zst", _compressed_tar(_info(package), package.file_name))
    return buffer.getvalue()


def _store(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _ZIP_TIME)
    info.create_system = 3  # Unix, also when made elsewhere
    info.external_attr = 0o100644 << 16
    archive.writestr(info, data)


def _compressed_tar(entries: Iterable[Entry], owner: str) -> bytes:
    import zstandard

    buffer = io.BytesIO()
    seen: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in sorted(entries, key=lambda each: each.path):
            path = safe_path(entry.path, owner)
            if path in seen:
                raise ArchiveError(f"{owner} would have {path} twice")
            seen.add(path)
            info = tarfile.TarInfo(path)
            info.mtime, info.mode = MTIME_S, 0o755 if entry.is_executable else 0o644
            if entry.link is None:
                info.size = len(entry.content)
            else:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
            tar.addfile(info, io.BytesIO(entry.content) if entry.link is None else None)
    return zstandard.ZstdCompressor(level=_LEVEL, threads=0).compress(buffer.getvalue())


def _info(package: Package) -> list[Entry]:
    files = sorted(package.files, key=lambda each: each.path)
    about = {"home": package.home, "license": package.license, "summary": package.summary}
    documents: dict[str, Any] = {
        "index.json": _index(package),
        "paths.json": {"paths": [_path(entry) for entry in files], "paths_version": 1},
        "about.json": {key: value for key, value in about.items() if value},
        "hash_input.json": {"digest": package.digest},
    }
    if package.noarch == "python":
        points = {"entry_points": list(package.entry_points)} if package.entry_points else {}
        documents["link.json"] = {"noarch": {"type": "python", **points}, "package_metadata_version": 1}
    texts = {"files": "".join(f"{entry.path}\n" for entry in files)}
    if prefixed := [f"{PLACEHOLDER} text {entry.path}\n" for entry in files if entry.has_placeholder]:
        texts["has_prefix"] = "".join(prefixed)
    entries = [
        Entry(name, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()) for name, value in documents.items()
    ]
    entries += [Entry(name, text.encode()) for name, text in texts.items()]
    return [entry._replace(path=f"info/{entry.path}") for entry in (*entries, *package.about)]


def _index(package: Package) -> dict[str, Any]:
    index: dict[str, Any] = {"depends": list(package.depends), "constrains": []}
    for key in ("name", "version", "build", "build_number", "license", "subdir"):
        index[key] = getattr(package, key)
    if package.noarch:
        return {**index, "arch": None, "platform": None, "noarch": package.noarch}
    platform, _, bits = package.subdir.partition("-")
    return {**index, "arch": {"64": "x86_64"}.get(bits, bits), "platform": platform}


def _path(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {
        "_path": entry.path,
        "path_type": "hardlink" if entry.link is None else "softlink",
        "sha256": entry.sha256,
        "size_in_bytes": len(entry.content),
    }
    if entry.has_placeholder:
        row.update(prefix_placeholder=PLACEHOLDER, file_mode="text")
    return row
