"""Contents of proven archives and wheels: the hash and mode of every file that it brings into a prefix. Taken from the
bytes themselves, since a package's own list is not always right (torch 1.12.1's RECORD has another hash for its
METADATA), and kept in the cache, since reading a wheel of 2 GB takes seconds."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envtool.artifacts import stated_paths
from envtool.artifacts.conda_archive import STATED, ZIP_ERRORS, Member, parse_info, read_info, read_payload
from envtool.artifacts.relocation import Placeholder
from envtool.artifacts.stated_paths import place_in_prefix, scripts_of
from envtool.atomic_files import write_atomically
from envtool.errors import ArchiveError

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Declared:
    """One file as an archive or wheel brings it."""

    package: tuple[str, str]
    # Hash of its content with the placeholder in it or of the target of a link, None where installing writes the
    # content.
    sha256: str | None
    placeholder: Placeholder | None = None
    is_link: bool = False
    is_executable: bool = False


@dataclass(frozen=True)
class Brought:
    """What an archive or wheel brings into a prefix."""

    files: Mapping[str, Declared]
    scripts: tuple[str, ...] = ()  # entry points that installing makes
    directories: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    is_noarch: bool = False

    @property
    def paths(self) -> Collection[str]:
        """Every path that it wants."""
        return [*self.files, *self.scripts] if self.scripts else self.files.keys()


class FileManifests:
    """The manifests of archives and wheels, kept under the hash of what they describe."""

    def __init__(self, cache_dir: Path) -> None:
        # The number goes up when the content changes, so that an old one is not read.
        self._root = cache_dir / "manifests" / "4"

    def is_known(self, sha256: str) -> bool:
        """Whether the manifest is kept, so that the archive or wheel is not needed."""
        return self._path(sha256).is_file()

    def keep(self, sha256: str, manager: str, source: Path) -> None:
        """Read a proven archive or wheel and keep its manifest. Raises ArchiveError if it is neither."""
        if manager == "conda":
            self.keep_archive(sha256, source, read_payload(source), read_info(source, STATED))
        else:
            self._write(sha256, _wheel_content(source))

    def keep_archive(self, sha256: str, archive: Path, payload: Iterable[Member], info: Mapping[str, bytes]) -> None:
        """Keep the manifest of an archive that was read. Raises ArchiveError if it lacks what is needed."""
        self._write(sha256, _archive_content(archive, payload, info))

    def _write(self, sha256: str, content: Mapping[str, Any]) -> None:
        path = self._path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, sort_keys=True))

    def brought(self, sha256: str, package: tuple[str, str], site_packages: str) -> Brought:
        """What a known archive or wheel brings."""
        return _brought(self._path(sha256), package, site_packages)

    def site_packages(self, python_sha256: str) -> str:
        """Where a known Python has its packages, relative to the prefix."""
        return str(_read(self._path(python_sha256))["site_packages"])

    def _path(self, sha256: str) -> Path:
        return self._root / f"{sha256}.json"


@functools.cache
def _brought(manifest: Path, package: tuple[str, str], site_packages: str) -> Brought:
    content = _read(manifest)
    is_python = content.get("noarch") == "python"

    def place(path: str) -> str:
        if package[0] == "pip":
            return place_in_prefix(path, site_packages)
        return stated_paths.place_of(path, site_packages) if is_python else path

    return Brought(
        {place(path): _declared(package, file) for path, file in content["files"].items()},
        tuple(f"bin/{name}" for name in content["scripts"]),
        tuple(place(path) for path in content.get("directories", ())),
        tuple(content.get("depends", ())),
        bool(content.get("noarch")),
    )


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    # Named by the hash of what it describes, so that it never changes.
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def _declared(package: tuple[str, str], file: Mapping[str, Any]) -> Declared:
    placeholder = Placeholder(file["placeholder"].encode(), file["is_binary"]) if "placeholder" in file else None
    return Declared(package, file["sha256"], placeholder, file.get("is_link", False), file.get("is_executable", False))


def _archive_content(archive: Path, payload: Iterable[Member], info: Mapping[str, bytes]) -> dict[str, Any]:
    index = parse_info(archive, info, "index.json")
    if "paths.json" not in info:
        payload = list(payload)
        info = {**info, "paths.json": stated_paths.listed(payload, info)}
    paths = parse_info(archive, info, "paths.json")
    link = parse_info(archive, info, "link.json") if "link.json" in info else {}
    listed = stated_paths.paths(archive, paths)
    members = {each.path: each for each in payload}
    files: dict[str, dict[str, Any]] = {}
    directories = []
    for path, entry in listed.items():
        if entry["path_type"] == "directory":
            directories.append(path)
            continue
        member = members.get(path)
        if member is None:
            raise ArchiveError(f"{archive}: info/paths.json lists {path}, which is not in the archive")
        file: dict[str, Any] = {"sha256": member.normalized_sha256}
        if member.is_link:
            if "__pycache__" in path.split("/"):  # compiling would write where it leads
                raise ArchiveError(f"{archive}: expected byte-code as a file, found the link {path}")
            file["is_link"] = True
        if member.is_executable:
            file["is_executable"] = True
        if entry.get("prefix_placeholder"):
            file["placeholder"] = entry["prefix_placeholder"]
            file["is_binary"] = entry.get("file_mode") == "binary"
        files[path] = file
    scripts = stated_paths.entry_points(archive, link) if index.get("noarch") == "python" else []
    depends = index.get("depends", [])
    if not isinstance(depends, list) or not all(isinstance(dependency, str) for dependency in depends):
        raise ArchiveError(f"{archive}: depends of info/index.json is not a list of texts")
    content: dict[str, Any] = {"files": files, "directories": directories, "scripts": scripts, "depends": depends}
    content["noarch"] = index.get("noarch")
    if index.get("name") == "python":
        content["site_packages"] = stated_paths.site_packages(archive, index)
    return content


def _wheel_content(wheel: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [each for each in archive.infolist() if not each.is_dir()]
        # Dealt out with the largest first, so that no core is left alone with one of them at the end.
        members.sort(key=lambda each: -each.file_size)
        count = os.cpu_count() or 1
        with ThreadPoolExecutor(count) as pool:
            shares = pool.map(lambda start: _share(wheel, members[start::count]), range(count))
            files = {name: file for share in shares for name, file in share.items()}
        return {"files": files, "scripts": scripts_of(wheel)}
    except ZIP_ERRORS as error:
        raise ArchiveError(f"{wheel} is not a valid wheel: {error}") from error


def _share(wheel: Path, members: Sequence[zipfile.ZipInfo]) -> dict[str, dict[str, Any]]:
    # An archive of its own for each thread: the check for overlapping entries that distributions put into Python 3.9
    # asks a position that the threads of one archive share, and then finds a bomb where there is none.
    with zipfile.ZipFile(wheel) as archive:
        return {member.filename: _wheel_file(archive, archive.getinfo(member.filename)) for member in members}


def _wheel_file(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> dict[str, Any]:
    is_script = ".data/scripts/" in member.filename
    is_executable = is_script or bool((member.external_attr >> 16) & stat.S_IXUSR)
    if member.filename.endswith(".dist-info/RECORD") or is_script:
        # The installer writes RECORD anew, into the file that the wheel has; scripts get the prefix's interpreter.
        return {"sha256": None, "is_executable": is_executable}
    digest = hashlib.sha256()
    with archive.open(member) as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    return {"sha256": digest.hexdigest(), "is_executable": is_executable}
