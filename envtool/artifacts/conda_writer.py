"""Writer of `.conda` archives.

It is deterministic: the same package gives the same bytes in every directory, under every umask and hash seed,
because order, times, owners and modes are fixed and zstd runs in one thread. Another version of libzstd may pack the
same content into other bytes; what the content is never depends on it. Formats: CEP 26 (names), CEP 34 (what is in a
package, `info/` included) and CEP 35 (the `.conda` file).
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from typing import Any

from envtool.artifacts.conda_package import PLACEHOLDER, Entry, Package, safe_path
from envtool.errors import ArchiveError

# Late enough to be a valid zip time in every time zone: a wheel made from installed files must not fail.
MTIME_S = 315_619_200  # 1980-01-02T00:00:00Z
_ZIP_TIME = (1980, 1, 2, 0, 0, 0)
_LEVEL = 12  # 19 is 9 % smaller and takes six times as long


def pack(package: Package) -> bytes:
    """The archive of a package. Raises ArchiveError if two files of the package have one path, or a path is unsafe."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        metadata = json.dumps({"conda_pkg_format_version": 2}).encode()
        _store(archive, "metadata.json", metadata)
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
            tar.addfile(_tar_info(path, entry), None if entry.link is not None else io.BytesIO(entry.content))
    return zstandard.ZstdCompressor(level=_LEVEL, threads=0).compress(buffer.getvalue())


def _tar_info(path: str, entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.mtime = MTIME_S
    info.mode = 0o755 if entry.is_executable else 0o644
    if entry.link is None:
        info.size = len(entry.content)
    else:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
    return info


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
        python: dict[str, Any] = {"type": "python"}
        if package.entry_points:
            python["entry_points"] = list(package.entry_points)
        documents["link.json"] = {"noarch": python, "package_metadata_version": 1}
    texts = {"files": "".join(f"{entry.path}\n" for entry in files)}
    prefixed = [entry.path for entry in files if entry.has_placeholder]
    if prefixed:
        texts["has_prefix"] = "".join(f"{PLACEHOLDER} text {path}\n" for path in prefixed)
    entries = [Entry(name, _json(value)) for name, value in documents.items()]
    entries += [Entry(name, text.encode()) for name, text in texts.items()]
    return [replace_path(entry, f"info/{entry.path}") for entry in (*entries, *package.about)]


def replace_path(entry: Entry, path: str) -> Entry:
    """The same file under another path."""
    return Entry(path, entry.content, entry.is_executable, entry.link, entry.has_placeholder)


def _index(package: Package) -> dict[str, Any]:
    index: dict[str, Any] = {
        "name": package.name,
        "version": package.version,
        "build": package.build,
        "build_number": package.build_number,
        "depends": list(package.depends),
        "constrains": [],
        "license": package.license,
        "subdir": package.subdir,
    }
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


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
