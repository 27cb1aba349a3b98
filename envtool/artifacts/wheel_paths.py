"""Paths of a wheel's files in a prefix, from its list of members, RECORD and entry points; nothing is unpacked.

Source: the binary distribution format and the entry points specification of PyPA.
"""

from __future__ import annotations

import configparser
import csv
import zipfile
from pathlib import Path

from envtool.artifacts.stated_paths import require_plain
from envtool.errors import ArchiveError

# RECORD of the largest wheels known takes 2 MB.
_LARGEST_BYTES = 64 << 20

# CRC-32, size, permissions.
Checksum = tuple[int, int, int]


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
        for record in _info(archive, "RECORD"):
            for path in _recorded(wheel, _text(wheel, archive, record)):
                require_plain(path, wheel.name, "RECORD")


def members_of(wheel: Path) -> list[str]:
    """The names of its files. Raises ArchiveError if it is not a valid wheel."""
    with _opened(wheel) as archive:
        return [each.filename for each in archive.infolist() if not each.is_dir()]


def checksums_of(wheel: Path) -> dict[str, Checksum]:
    """CRC-32, size and permissions of each of its files, from its list of members. Raises ArchiveError if it is not a
    valid wheel."""
    with _opened(wheel) as archive:
        return {each.filename: (each.CRC, each.file_size, each.external_attr >> 16) for each in archive.infolist()}


def scripts_of(wheel: Path) -> list[str]:
    """The names of the scripts that installing makes of its entry points. Raises ArchiveError if its entry points
    cannot be read, or one has a name that is no file name."""
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
    for name in names:
        if "/" in require_plain(name, wheel.name, "entry_points.txt"):
            raise ArchiveError(f"{wheel.name}: expected file names in entry_points.txt, found {name!r:.200}")
    return names


def _recorded(wheel: Path, text: str) -> list[str]:
    try:
        return [row[0] for row in csv.reader(text.splitlines()) if row]
    except csv.Error as error:
        raise ArchiveError(f"{wheel.name}: RECORD cannot be read: {error}") from error


def _opened(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except (zipfile.BadZipFile, OSError) as error:
        raise ArchiveError(f"{wheel} is not a valid wheel: {error}") from error


def _info(archive: zipfile.ZipFile, name: str) -> list[str]:
    return [each for each in archive.namelist() if each.count("/") == 1 and each.endswith(f".dist-info/{name}")]


def _text(wheel: Path, archive: zipfile.ZipFile, name: str) -> str:
    if archive.getinfo(name).file_size > _LARGEST_BYTES:
        raise ArchiveError(f"{wheel.name}: {name} is larger than {_LARGEST_BYTES >> 20} MiB")
    try:
        with archive.open(name) as content:
            return content.read(_LARGEST_BYTES).decode("utf-8", errors="replace")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ArchiveError(f"{wheel.name}: {name} cannot be read: {error}") from error
