"""Wheel files: members, RECORD, headers, scripts, and the places of their files in a conda package: `site-packages/`
and `python-scripts/` if it is noarch. `INSTALLER` states conda, so that pip leaves the package alone."""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import posixpath
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.message import Message
from email.parser import HeaderParser, Parser
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from envtool.artifacts.conda_archive import ZIP_ERRORS
from envtool.artifacts.conda_package import PLACEHOLDER, Entry, safe_path
from envtool.errors import ArchiveError, Issue

_PYTHON_LINE = re.compile(rb"#!pythonw?(?=[ \r\n])")
_CLAUSE = re.compile(r"(?:>=|<=|==|!=|~=|>|<)[0-9][0-9a-z.]*(?:\.\*)?")
_SIGNATURES = (".dist-info/RECORD", ".dist-info/RECORD.jws", ".dist-info/RECORD.p7s")
_LICENSE = re.compile(r"(LICEN[CS]E|COPYING|NOTICE)")


def one_line(metadata: Message, key: str) -> str:
    """A header's value, empty where there is none."""
    return str(metadata.get(key, "")).strip()


class Wheel(NamedTuple):
    """A wheel that was read: its files by path, and its .dist-info directory."""

    name: str
    members: Mapping[str, Entry]
    dist_info: str

    @classmethod
    def read(cls, path: Path) -> Wheel:
        """Read a wheel. Raises ArchiveError if it is damaged, has an unsafe path, or not one .dist-info directory."""
        members = {}
        try:
            with zipfile.ZipFile(path) as wheel:
                for info in wheel.infolist():
                    name = safe_path(info.filename, path.name)
                    if not info.is_dir():
                        members[name] = Entry(name, wheel.read(info), bool(info.external_attr >> 16 & 0o100))
        except ZIP_ERRORS as error:
            raise ArchiveError(f"{path.name} is not a whole wheel: {error}") from error
        found = {name.partition("/")[0] for name in members if re.match(r"[^/]+\.dist-info/", name)}
        if len(found) != 1:
            raise ArchiveError(f"{path.name} must have one .dist-info directory, not {len(found)}")
        return cls(path.name, members, found.pop())

    def _text(self, name: str) -> str:
        if f"{self.dist_info}/{name}" not in self.members:
            raise ArchiveError(f"{self.name} has no {self.dist_info}/{name}")
        return self.members[f"{self.dist_info}/{name}"].content.decode("utf-8")

    def headers(self, name: str) -> Message:
        """The headers of METADATA or WHEEL. Raises ArchiveError if it is not found."""
        return Parser().parsestr(self._text(name), headersonly=True)

    def compiled_tags(self) -> str | None:
        """The tags of a wheel that is not pure Python; None for one that is."""
        stated = self.headers("WHEEL")
        tags = [str(tag) for tag in stated.get_all("Tag", [])]
        is_pure = one_line(stated, "Root-Is-Purelib").lower() == "true"
        is_pure = is_pure and all(tag.endswith("-none-any") for tag in tags)
        return None if is_pure else ", ".join(tags) or "none"

    def check_record(self) -> None:
        """Compare the files with RECORD. Raises ArchiveError if they differ; every difference is named."""
        rows = csv.reader(io.StringIO(self._text("RECORD")))
        listed = {row[0]: row[1] for row in rows if len(row) == 3}
        issues = [Issue(name, "is in RECORD but not in the wheel") for name in listed if name not in self.members]
        for name, entry in self.members.items():
            stated, found = listed.get(name), record_hash(entry)[0]
            if not name.endswith(_SIGNATURES) and stated != found:
                issues.append(Issue(name, f"expected {stated or 'to be in RECORD'}, actual {found}"))
        if issues:
            raise ArchiveError(f"{self.name} contradicts its RECORD:" + "".join(f"\n  {issue}" for issue in issues))

    def python_spec(self) -> str:
        """The match spec for Python that Requires-Python stands for. Raises ArchiveError if conda cannot express it."""
        stated = one_line(self.headers("METADATA"), "Requires-Python").replace(" ", "")
        clauses = [clause for clause in stated.split(",") if clause]
        unknown = [clause for clause in clauses if not _CLAUSE.fullmatch(clause)]
        if unknown:
            raise ArchiveError(
                f"{self.name} has a Requires-Python that cannot be expressed as a conda version: {', '.join(unknown)}"
            )
        return f"python {','.join(clauses)}" if clauses else "python"

    def console_scripts(self) -> dict[str, str]:
        """The scripts that the wheel wants to be made, name to `module:function`, sorted."""
        entry = self.members.get(f"{self.dist_info}/entry_points.txt")
        parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign] # names of scripts keep their case
        parser.read_string(entry.content.decode("utf-8") if entry else "")
        scripts: dict[str, str] = {}
        for section in ("console_scripts", "gui_scripts"):
            if parser.has_section(section):
                # Extras behind the function are a wish of the wheel that no installer obeys.
                scripts.update({name: target.partition("[")[0].strip() for name, target in parser.items(section)})
        return dict(sorted(scripts.items()))

    def licenses(self) -> tuple[Entry, ...]:
        """The licences, as files below `info/`."""
        found = []
        for name, entry in sorted(self.members.items()):
            inner = name.removeprefix(f"{self.dist_info}/")
            is_license = inner.startswith("licenses/") or _LICENSE.match(PurePosixPath(inner).name)
            if inner != name and is_license:
                found.append(Entry(f"licenses/{inner.removeprefix('licenses/')}", entry.content))
        return tuple(found)


class Layout(NamedTuple):
    """The places of a package."""

    site: str
    scripts: str
    headers: str | None
    installed_site: str  # where `site` is once it is installed

    def place(self, wheel: Wheel, generated: Sequence[str]) -> tuple[Entry, ...]:
        """The files of a wheel at their places, sorted by path. Raises ArchiveError if one has no place."""
        files = {entry.path: entry for entry in self._placed(wheel)}
        installer, record = (f"{self.site}/{wheel.dist_info}/{name}" for name in ("INSTALLER", "RECORD"))
        files[installer] = Entry(installer, b"conda\n")
        files[record] = Entry(record, self._record(files, record, generated))
        return tuple(files[name] for name in sorted(files))

    def _placed(self, wheel: Wheel) -> Iterator[Entry]:
        data = f"{wheel.dist_info[: -len('.dist-info')]}.data/"
        places = {**dict.fromkeys(("purelib", "platlib"), self.site), "scripts": self.scripts, "data": ""}
        places.update({"headers": self.headers} if self.headers else {})
        for name, entry in wheel.members.items():
            if not name.startswith(data):
                yield Entry(f"{self.site}/{name}", entry.content, entry.is_executable)
                continue
            kind, _, rest = name[len(data) :].partition("/")
            if kind not in places:
                raise ArchiveError(f"{wheel.name} has files of the kind {kind!r}, which a package has no place for")
            path = posixpath.join(places[kind], rest)
            yield self._script(path, entry) if kind == "scripts" else Entry(path, entry.content, entry.is_executable)

    def _script(self, path: str, entry: Entry) -> Entry:
        # In a noarch package the installer sets the interpreter; anywhere else the prefix is filled in.
        line = f"#!{PLACEHOLDER}/bin/python".encode()
        if self is NOARCH or not _PYTHON_LINE.match(entry.content):
            return Entry(path, entry.content, True)
        return Entry(path, _PYTHON_LINE.sub(line, entry.content, count=1), True, has_placeholder=True)

    def _record(self, files: Mapping[str, Entry], record: str, generated: Sequence[str]) -> bytes:
        # What is filled in when it is installed has no hash that is known here; an empty one is allowed.
        rows = [(self._installed(path), *(("", "") if entry.has_placeholder else record_hash(entry)))
                for path, entry in files.items() if path != record]  # fmt: skip
        rows += [(posixpath.relpath(path, self.installed_site), "", "") for path in generated]
        return format_record(sorted([*rows, (self._installed(record), "", "")]))

    def _installed(self, path: str) -> str:
        # Relative to the installed site-packages, as RECORD has it.
        if path.startswith(f"{self.site}/"):
            return path[len(self.site) + 1 :]
        if path.startswith(f"{self.scripts}/"):
            path = f"bin/{path[len(self.scripts) + 1 :]}"
        return posixpath.relpath(path, self.installed_site)


NOARCH = Layout("site-packages", "python-scripts", None, "lib/python3.X/site-packages")


def record_hash(entry: Entry) -> tuple[str, str]:
    """The hash and the size of a file as RECORD has them."""
    digest = hashlib.sha256(entry.content).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii"), str(len(entry.content))


def format_record(rows: Iterable[tuple[str, str, str]]) -> bytes:
    """The rows of a RECORD as its bytes."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode("utf-8")


_NO_LICENSE = ("", "unknown", "none")


def license_of(metadata: str) -> str | None:
    """The licence that the METADATA of a wheel states, the most precise field first (PyPA core metadata)."""
    headers = HeaderParser().parsestr(metadata)
    for field in ("License-Expression", "License"):
        text = str(headers.get(field, "")).strip()
        if known := known_license(text.splitlines()[0] if text and len(text) < 200 else None):
            return known
    classifiers = [str(each) for each in headers.get_all("Classifier", []) if str(each).startswith("License ::")]
    return classifiers[0].rpartition(" :: ")[2] if classifiers else None


def known_license(text: str | None) -> str | None:
    """The text of a licence, or None where it is a word for none."""
    return text if text and text.strip().lower() not in _NO_LICENSE else None
