"""What archives and wheels bring into a prefix: the paths that they state, which may not lead out of it, and the hash
and mode of every file. Those are taken from the bytes themselves, since a package's own list is not always right (torch
1.12.1's RECORD has another hash for its METADATA), and kept in the cache, since reading a wheel of 2 GB takes seconds.
Source: the binary distribution format and the entry points specification of PyPA."""

from __future__ import annotations

import configparser
import csv
import functools
import hashlib
import json
import os
import re
import shlex
import stat
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from envtool.artifacts.conda_archive import STATED, ZIP_ERRORS, Member, parse_info, read_info, read_payload
from envtool.artifacts.relocation import Placeholder
from envtool.atomic_files import write_atomically
from envtool.errors import ArchiveError

_PATH_TYPES = ("hardlink", "softlink", "directory")
# Where py-rattler puts what loses a path to another package.
CLOBBERS = "__clobbers__"
_RESERVED = ("conda-meta", CLOBBERS)  # conda's notes and ours are in the first
_LONGEST_BYTES = 4095
_LARGEST_BYTES = 64 << 20  # RECORD of the largest wheels known takes 2 MB
Checksum = tuple[int, int, int]  # CRC-32, size, permissions
# What stands for the prefix where `has_prefix` names none. In two pieces, so that this file does not have it.
_OLD_PLACEHOLDER = "/opt/" + "anaconda1anaconda2anaconda3"


def require_plain(path: object, package: str, where: str) -> str:
    """A path that stays inside its directory. Raises ArchiveError if it does not, or is in one of no package."""
    parts = path.split("/") if isinstance(path, str) else [""]
    is_plain = not any(part in ("", ".", "..") or "\0" in part for part in parts)
    if not is_plain or len(str(path).encode(errors="surrogatepass")) > _LONGEST_BYTES:
        raise ArchiveError(f"{package}: expected a plain path inside the prefix in {where}, found {path!r:.200}")
    if parts[0] in _RESERVED:
        raise ArchiveError(f"{package}: {where} has {path!r:.200}, but {parts[0]} belongs to no package")
    return str(path)


def stated_paths(archive: Path, content: Any) -> dict[str, Mapping[str, Any]]:
    """The entries of `info/paths.json`, by their path. Raises ArchiveError if one is malformed or leaves the prefix."""
    entries = content.get("paths") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ArchiveError(f"{archive}: info/paths.json has no list of paths")
    found: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        is_known = isinstance(entry, dict) and entry.get("path_type") in _PATH_TYPES
        if not is_known or not isinstance(entry.get("prefix_placeholder") or "", str):
            raise ArchiveError(f"{archive}: info/paths.json has an invalid entry: {entry!r:.200}")
        found[require_plain(entry.get("_path"), str(archive), "info/paths.json")] = entry
    return found


def kept_at(name: str, path: str) -> str:
    """Where the file of a conda package lies whose path another conda package has won."""
    return f"{CLOBBERS}/{name}/{path}"


def cached_paths(archive: Path) -> list[str]:
    """The paths that an archive states; none where there is no such archive or it cannot be read."""
    try:
        return list(stated_paths(archive, parse_info(archive, read_info(archive, ["paths.json"]), "paths.json")))
    except ArchiveError:
        return []


def old_listing(payload: Iterable[Member], info: Mapping[str, bytes]) -> bytes:
    """What `info/paths.json` would say of an archive from before there was one (CEP 34, `files` and `has_prefix`)."""
    members = {each.path: each for each in payload}
    names = info["files"].decode(errors="replace").splitlines() if "files" in info else list(members)
    placeholders = {}
    for line in info.get("has_prefix", b"").decode(errors="replace").splitlines():
        # `placeholder mode path`, each in quotes if need be, or the path alone.
        try:
            parts = shlex.split(line)
        except ValueError:
            parts = [line]
        text, mode, path = parts if len(parts) == 3 else (_OLD_PLACEHOLDER, "text", line.strip())
        placeholders[path] = {"prefix_placeholder": text, "file_mode": mode}
    no_link = set(info.get("no_link", b"").decode(errors="replace").splitlines())
    entries: list[dict[str, Any]] = []
    for name in dict.fromkeys(each.strip() for each in names if each.strip()):
        is_link = name in members and members[name].is_link
        entry = {"_path": name, "path_type": "softlink" if is_link else "hardlink", **placeholders.get(name, {})}
        entries.append({**entry, "no_link": True} if name in no_link else entry)
    return json.dumps({"paths": entries, "paths_version": 1}).encode()


def entry_points(archive: Path, content: Any) -> list[str]:
    """The names of the scripts of a noarch Python package, from `info/link.json`. Raises ArchiveError."""
    noarch = content.get("noarch") if isinstance(content, dict) else None
    points = (noarch.get("entry_points") if isinstance(noarch, dict) else None) or []
    if not isinstance(points, (list, tuple)) or not all(isinstance(each, str) for each in points):
        raise ArchiveError(f"{archive}: the entry points of info/link.json are not a list of texts")
    names = [point.partition("=")[0].strip() for point in points]
    return _file_names(names, str(archive), "the entry points of info/link.json", "a file name as entry point")


def _file_names(names: list[str], owner: str, where: str, expected: str) -> list[str]:
    for name in names:
        if "/" in require_plain(name, owner, where):
            raise ArchiveError(f"{owner}: expected {expected}, found {name!r:.200}")
    return names


def site_packages(archive: Path, index: Mapping[str, Any]) -> str:
    """Where a Python has its packages (CEP 17), relative to the prefix. Raises ArchiveError if that is outside."""
    path = index.get("python_site_packages_path")
    if path is None:
        version = re.match(r"\d+(\.\d+)?", str(index.get("version")))
        path = f"lib/python{version.group() if version else '3'}/site-packages"
    return require_plain(path, str(archive), "python_site_packages_path of info/index.json")


def place_of(path: str, site_packages: str) -> str:
    """Where a file of a noarch Python package is put, relative to the prefix (CEP 20)."""
    if path.startswith("site-packages/"):
        return f"{site_packages}/{path[len('site-packages/') :]}"
    return f"bin/{path[len('python-scripts/') :]}" if path.startswith("python-scripts/") else path


def place_in_prefix(name: str, site_packages: str) -> str:
    """Where a member of a wheel goes, relative to the prefix; the .data directory holds what goes elsewhere."""
    top, _slash, rest = name.partition("/")
    if not top.endswith(".data"):
        return f"{site_packages}/{name}"
    scheme, _slash, path = rest.partition("/")
    version = site_packages.split("/")[1]
    places = {"scripts": "bin/", "data": "", "headers": f"include/site/{version}/{top.rpartition('-')[0]}/"}
    return f"{places.get(scheme, f'{site_packages}/')}{path}"


def require_plain_paths(wheel: Path) -> None:
    """Refuse a wheel that states a path that escapes its directories: uv installs by its list and removes by RECORD.
    Raises ArchiveError if it is not a valid wheel, or one of its paths leaves the prefix."""
    with _opened(wheel) as archive:
        for member in archive.infolist():
            name = member.filename.rstrip("/") if member.is_dir() else member.filename
            require_plain(name, wheel.name, "its list of members")
            top, _slash, rest = name.partition("/")
            if top.endswith(".data") and rest.count("/"):
                require_plain(place_in_prefix(name, "lib/python3/site-packages"), wheel.name, "its .data directory")
        try:
            for record in _info(archive, "RECORD"):
                for row in csv.reader(_text(wheel, archive, record).splitlines()):
                    if row:
                        require_plain(row[0], wheel.name, "RECORD")
        except csv.Error as error:
            raise ArchiveError(f"{wheel.name}: RECORD cannot be read: {error}") from error


def checksums_of(wheel: Path) -> dict[str, Checksum]:
    """CRC-32, size and permissions of each file of a wheel. Raises ArchiveError if it is not a valid one."""
    with _opened(wheel) as archive:
        members = [each for each in archive.infolist() if not each.is_dir()]
    return {member.filename: (member.CRC, member.file_size, member.external_attr >> 16) for member in members}


def scripts_of(wheel: Path) -> list[str]:
    """The names of the scripts that a wheel's entry points make. Raises ArchiveError if they cannot be read."""
    with _opened(wheel) as archive:
        text = "\n".join(_text(wheel, archive, each) for each in _info(archive, "entry_points.txt"))
    points = configparser.RawConfigParser(delimiters=("=",), strict=False)
    points.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        points.read_string(text)
    except configparser.Error as error:
        raise ArchiveError(f"{wheel.name}: entry_points.txt cannot be read: {error}") from error
    groups = [points[each] for each in ("console_scripts", "gui_scripts") if points.has_section(each)]
    names = [name for group in groups for name in group]
    return _file_names(names, wheel.name, "entry_points.txt", "file names in entry_points.txt")


def _opened(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except ZIP_ERRORS as error:
        raise ArchiveError(f"{wheel} is not a valid wheel: {error}") from error


def _info(archive: zipfile.ZipFile, name: str) -> list[str]:
    return [each for each in archive.namelist() if each.count("/") == 1 and each.endswith(f".dist-info/{name}")]


def _text(wheel: Path, archive: zipfile.ZipFile, name: str) -> str:
    if archive.getinfo(name).file_size > _LARGEST_BYTES:
        raise ArchiveError(f"{wheel.name}: {name} is larger than {_LARGEST_BYTES >> 20} MiB")
    try:
        with archive.open(name) as content:
            return content.read(_LARGEST_BYTES).decode("utf-8", errors="replace")
    except ZIP_ERRORS as error:
        raise ArchiveError(f"{wheel.name}: {name} cannot be read: {error}") from error


_CHUNK_BYTES = 1 << 20


class Declared(NamedTuple):
    """One file as an archive or wheel brings it."""

    package: tuple[str, str]
    # Hash of its content with the placeholder in it or of the target of a link, None where installing writes the
    # content.
    sha256: str | None
    placeholder: Placeholder | None = None
    is_link: bool = False
    is_executable: bool = False


class Brought(NamedTuple):
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
        return place_of(path, site_packages) if is_python else path

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
        info = {**info, "paths.json": old_listing(payload, info)}
    paths = parse_info(archive, info, "paths.json")
    link = parse_info(archive, info, "link.json") if "link.json" in info else {}
    listed = stated_paths(archive, paths)
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
    scripts = entry_points(archive, link) if index.get("noarch") == "python" else []
    depends = index.get("depends", [])
    if not isinstance(depends, list) or not all(isinstance(dependency, str) for dependency in depends):
        raise ArchiveError(f"{archive}: depends of info/index.json is not a list of texts")
    content: dict[str, Any] = {"files": files, "directories": directories, "scripts": scripts, "depends": depends}
    content["noarch"] = index.get("noarch")
    if index.get("name") == "python":
        content["site_packages"] = site_packages(archive, index)
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
