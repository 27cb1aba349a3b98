"""What a proven archive or wheel holds: the hash and mode of every file that it brings into a prefix.

Taken from the bytes themselves: a package's own list is not always right (torch 1.12.1's RECORD states another hash for
its METADATA than it has). Reading a wheel of 2 GB takes seconds, so the result is kept in the cache under the hash of
the archive or wheel.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envtool.artifacts.conda_archive import Member, parse_info, read_info, read_payload
from envtool.artifacts.relocation import Placeholder
from envtool.atomic_files import write_atomically
from envtool.errors import ArchiveError
from envtool.prefix.conda_meta_record import place_of

# What a manifest is made of, besides the payload.
INFO = ("index.json", "paths.json")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Declared:
    """One file as an archive or wheel brings it.

    Args:
        package: Manager and name of the package.
        sha256: Hash of its content with the placeholder in it or of the target of a link, None where installing
            writes the content.
        placeholder: What stands in place of the prefix, None where nothing does.
        is_link: Whether it is a symbolic link.
        is_executable: Whether its owner may execute it.
    """

    package: tuple[str, str]
    sha256: str | None
    placeholder: Placeholder | None = None
    is_link: bool = False
    is_executable: bool = False


class Manifests:
    """The manifests of archives and wheels, kept under the hash of what they describe.

    Args:
        cache_dir: Where they are kept.
    """

    def __init__(self, cache_dir: Path) -> None:
        # The number goes up when the content changes, so that an old one is not read.
        self._root = cache_dir / "manifests" / "3"

    def is_known(self, sha256: str) -> bool:
        """Whether the manifest is kept, so that the archive or wheel is not needed."""
        return self._path(sha256).is_file()

    def keep(self, sha256: str, manager: str, source: Path) -> None:
        """Read a proven archive or wheel and keep its manifest.

        Raises:
            ArchiveError: It is neither.
        """
        if manager == "conda":
            self.keep_archive(sha256, source, read_payload(source), read_info(source, INFO))
        else:
            self._write(sha256, _wheel_content(source))

    def keep_archive(self, sha256: str, archive: Path, payload: Iterable[Member], info: Mapping[str, bytes]) -> None:
        """Keep the manifest of an archive that was read.

        Args:
            sha256: Its hash.
            archive: The archive, for messages.
            payload: What it holds.
            info: The content of those files of `INFO` that it has.

        Raises:
            ArchiveError: One of these is not there, or no JSON.
        """
        self._write(sha256, _archive_content(archive, payload, info))

    def _write(self, sha256: str, content: Mapping[str, Any]) -> None:
        path = self._path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, sort_keys=True))

    def declared(self, sha256: str, package: tuple[str, str], site_packages: str) -> dict[str, Declared]:
        """The files of a known archive or wheel, by the path that they have in a prefix.

        Args:
            sha256: Its hash.
            package: Manager and name.
            site_packages: Where Python packages go, such as `lib/python3.9/site-packages`.
        """
        content: dict[str, Any] = json.loads(self._path(sha256).read_bytes())
        place = _place_linked if package[0] == "conda" else _place_wheel
        is_python = content.get("noarch") == "python"
        return {
            place(path, is_python, site_packages): _declared(package, file) for path, file in content["files"].items()
        }

    def _path(self, sha256: str) -> Path:
        return self._root / f"{sha256}.json"


def _declared(package: tuple[str, str], file: Mapping[str, Any]) -> Declared:
    placeholder = Placeholder(file["placeholder"].encode(), file["is_binary"]) if "placeholder" in file else None
    return Declared(package, file["sha256"], placeholder, file.get("is_link", False), file.get("is_executable", False))


def _archive_content(archive: Path, payload: Iterable[Member], info: Mapping[str, bytes]) -> dict[str, Any]:
    index, paths = (parse_info(archive, info, name) for name in INFO)
    listed = {each["_path"]: each for each in paths["paths"]}
    files: dict[str, dict[str, Any]] = {}
    for member in payload:
        file: dict[str, Any] = {"sha256": member.normalized_sha256}
        if member.is_link:
            file["is_link"] = True
        if member.is_executable:
            file["is_executable"] = True
        if listed.get(member.path, {}).get("prefix_placeholder"):
            file["placeholder"] = listed[member.path]["prefix_placeholder"]
            file["is_binary"] = listed[member.path].get("file_mode") == "binary"
        files[member.path] = file
    return {"noarch": index.get("noarch"), "files": files}


def _place_linked(path: str, is_python: bool, site_packages: str) -> str:
    return place_of(path, site_packages) if is_python else path


def _wheel_content(wheel: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [each for each in archive.infolist() if not each.is_dir()]
        # Dealt out with the largest first, so that no core is left alone with one of them at the end.
        members.sort(key=lambda each: -each.file_size)
        count = os.cpu_count() or 1
        with ThreadPoolExecutor(count) as pool:
            shares = pool.map(lambda start: _share(wheel, members[start::count]), range(count))
            return {"files": {name: file for share in shares for name, file in share.items()}}
    except (zipfile.BadZipFile, OSError) as error:
        raise ArchiveError(f"{wheel} is no wheel: {error}") from error


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


def _place_wheel(name: str, _: bool, site_packages: str) -> str:
    # The .data directory holds what goes elsewhere (Binary distribution format, PyPA specifications).
    top, _slash, rest = name.partition("/")
    if not top.endswith(".data"):
        return f"{site_packages}/{name}"
    scheme, _slash, path = rest.partition("/")
    version = site_packages.split("/")[1]
    places = {"scripts": "bin/", "data": "", "headers": f"include/site/{version}/{top.rpartition('-')[0]}/"}
    return f"{places.get(scheme, f'{site_packages}/')}{path}"
