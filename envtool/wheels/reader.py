"""Wheel files: members, RECORD, headers, scripts, and the places of their files in a conda package.

A noarch package has `site-packages/` and `python-scripts/`, which the installer puts where the environment's Python
looks; any other names the places themselves. `RECORD` lists what will be installed, scripts included, and `INSTALLER`
states conda, so that pip neither upgrades nor removes the package by accident.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import posixpath
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

from envtool.artifacts.conda_archive import ZIP_ERRORS
from envtool.artifacts.conda_package import PLACEHOLDER, Entry, safe_path
from envtool.errors import ArchiveError, Issue

_PYTHON_LINE = re.compile(rb"#!pythonw?(?=[ \r\n])")


@dataclass(frozen=True)
class Layout:
    """The places of a package."""

    site: str
    scripts: str
    headers: str | None
    installed_site: str  # where `site` is once it is installed

    def place(
        self, members: Mapping[str, Entry], dist_info: str, generated: Sequence[str], owner: str
    ) -> tuple[Entry, ...]:
        """The files of a wheel at their places, sorted by path. Raises ArchiveError if it has files of a kind that has
        no place."""
        files = {entry.path: entry for entry in self._placed(members, dist_info, owner)}
        installer, record = (f"{self.site}/{dist_info}/{name}" for name in ("INSTALLER", "RECORD"))
        files[installer] = Entry(installer, b"conda\n")
        files[record] = Entry(record, self._record(files, record, generated))
        return tuple(files[name] for name in sorted(files))

    def _placed(self, members: Mapping[str, Entry], dist_info: str, owner: str) -> Iterator[Entry]:
        data = f"{dist_info[: -len('.dist-info')]}.data/"
        places = {
            "purelib": self.site,
            "platlib": self.site,
            "scripts": self.scripts,
            "data": "",
            "headers": self.headers,
        }
        for name, entry in members.items():
            if not name.startswith(data):
                yield Entry(f"{self.site}/{name}", entry.content, entry.is_executable)
                continue
            kind, _, rest = name[len(data) :].partition("/")
            place = places.get(kind)
            if place is None:
                raise ArchiveError(f"{owner} has files of the kind {kind!r}, which a package has no place for")
            path = posixpath.join(place, rest)
            yield self._script(path, entry) if kind == "scripts" else Entry(path, entry.content, entry.is_executable)

    def _script(self, path: str, entry: Entry) -> Entry:
        # In a noarch package the installer sets the interpreter; anywhere else the prefix is filled in.
        line = f"#!{PLACEHOLDER}/bin/python".encode()
        if self is NOARCH or not _PYTHON_LINE.match(entry.content):
            return Entry(path, entry.content, True)
        return Entry(path, _PYTHON_LINE.sub(line, entry.content, count=1), True, has_placeholder=True)

    def _record(self, files: Mapping[str, Entry], record: str, generated: Sequence[str]) -> bytes:
        rows = [(self._installed(path), *_stated(entry)) for path, entry in files.items() if path != record]
        rows += [(posixpath.relpath(path, self.installed_site), "", "") for path in generated]
        rows.append((self._installed(record), "", ""))
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(sorted(rows))
        return out.getvalue().encode("utf-8")

    def _installed(self, path: str) -> str:
        # Relative to the installed site-packages, as RECORD has it.
        if path.startswith(f"{self.site}/"):
            return path[len(self.site) + 1 :]
        if path.startswith(f"{self.scripts}/"):
            path = f"bin/{path[len(self.scripts) + 1 :]}"
        return posixpath.relpath(path, self.installed_site)


NOARCH = Layout("site-packages", "python-scripts", None, "lib/python3.X/site-packages")


def for_python(python: str, name: str) -> Layout:
    """The layout of a package for one Python."""
    site = f"lib/python{python}/site-packages"
    return Layout(site, "bin", f"include/python{python}/{name}", site)


def _stated(entry: Entry) -> tuple[str, str]:
    # What is filled in when it is installed has no hash that is known here; an empty one is allowed.
    return ("", "") if entry.has_placeholder else (record_hash(entry), str(len(entry.content)))


def record_hash(entry: Entry) -> str:
    """The hash of a file as RECORD has it."""
    digest = hashlib.sha256(entry.content).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


_CLAUSE = re.compile(r"(?:>=|<=|==|!=|~=|>|<)[0-9][0-9a-z.]*(?:\.\*)?")


def read_members(path: Path) -> Iterator[tuple[str, Entry]]:
    """The files of a wheel by path. Raises ArchiveError if it is damaged, or has an unsafe path."""
    try:
        with zipfile.ZipFile(path) as wheel:
            for info in wheel.infolist():
                name = safe_path(info.filename, path.name)
                if not info.is_dir():
                    yield name, Entry(name, wheel.read(info), bool(info.external_attr >> 16 & 0o100))
    except ZIP_ERRORS as error:
        raise ArchiveError(f"{path.name} is not a whole wheel: {error}") from error


def dist_info_of(members: Mapping[str, Entry], owner: str) -> str:
    """The .dist-info directory of a wheel. Raises ArchiveError if it has none, or several."""
    found = {name.partition("/")[0] for name in members if re.match(r"[^/]+\.dist-info/", name)}
    if len(found) != 1:
        raise ArchiveError(f"{owner} must have one .dist-info directory, not {len(found)}")
    return found.pop()


def headers(members: Mapping[str, Entry], name: str, owner: str) -> Message:
    """The headers of a file of a wheel, such as METADATA. Raises ArchiveError if it is not found."""
    return Parser().parsestr(_text(members, name, owner), headersonly=True)


def one_line(metadata: Message, key: str) -> str:
    """A header's value, empty where there is none."""
    return str(metadata.get(key, "")).strip()


def check_record(members: Mapping[str, Entry], dist_info: str, owner: str) -> None:
    """Compare the files of a wheel with its RECORD. Raises ArchiveError if they differ; every difference is named."""
    rows = csv.reader(io.StringIO(_text(members, f"{dist_info}/RECORD", owner)))
    listed = {row[0]: row[1] for row in rows if len(row) == 3}
    issues = [Issue(name, "is in RECORD but not in the wheel") for name in listed if name not in members]
    for name, entry in members.items():
        signature = name.endswith((".dist-info/RECORD", ".dist-info/RECORD.jws", ".dist-info/RECORD.p7s"))
        if not signature and listed.get(name) != record_hash(entry):
            issues.append(Issue(name, f"expected {listed.get(name) or 'to be in RECORD'}, actual {record_hash(entry)}"))
    if issues:
        raise ArchiveError(f"{owner} contradicts its RECORD:" + "".join(f"\n  {issue}" for issue in issues))


def _text(members: Mapping[str, Entry], name: str, owner: str) -> str:
    if name not in members:
        raise ArchiveError(f"{owner} has no {name}")
    return members[name].content.decode("utf-8")


def python_spec(metadata: Message, owner: str) -> str:
    """The match spec for Python that Requires-Python stands for. Raises ArchiveError if conda cannot express it."""
    clauses = [clause for clause in one_line(metadata, "Requires-Python").replace(" ", "").split(",") if clause]
    unknown = [clause for clause in clauses if not _CLAUSE.fullmatch(clause)]
    if unknown:
        raise ArchiveError(
            f"{owner} has a Requires-Python that cannot be expressed as a conda version: {', '.join(unknown)}"
        )
    return f"python {','.join(clauses)}" if clauses else "python"


def console_scripts(members: Mapping[str, Entry], dist_info: str) -> dict[str, str]:
    """The scripts that a wheel wants to be made, name to `module:function`, sorted."""
    entry = members.get(f"{dist_info}/entry_points.txt")
    if entry is None:
        return {}
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names of scripts keep their case
    parser.read_string(entry.content.decode("utf-8"))
    scripts: dict[str, str] = {}
    for section in ("console_scripts", "gui_scripts"):
        if parser.has_section(section):
            # Extras behind the function are a wish of the wheel that no installer obeys.
            scripts.update({name: target.partition("[")[0].strip() for name, target in parser.items(section)})
    return dict(sorted(scripts.items()))


def licenses(members: Mapping[str, Entry], dist_info: str) -> tuple[Entry, ...]:
    """The licences of a wheel, as files below `info/`."""
    found = []
    for name, entry in sorted(members.items()):
        inner = name.removeprefix(f"{dist_info}/")
        is_license = inner.startswith("licenses/") or re.match(
            r"(LICEN[CS]E|COPYING|NOTICE)", PurePosixPath(inner).name
        )
        if inner != name and is_license:
            found.append(Entry(f"licenses/{inner.removeprefix('licenses/')}", entry.content))
    return tuple(found)
