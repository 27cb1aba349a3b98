"""Reader of wheel files: members, RECORD, headers, console scripts, licences."""

from __future__ import annotations

import configparser
import csv
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

from envtool.artifacts.conda_package import Entry, safe_path
from envtool.errors import ArchiveError, Issue
from envtool.wheels.layout import record_hash

_CLAUSE = re.compile(r"(?:>=|<=|==|!=|~=|>|<)[0-9][0-9a-z.]*(?:\.\*)?")


def read_members(path: Path) -> Iterator[tuple[str, Entry]]:
    """The files of a wheel by path. Raises ArchiveError if it is damaged, or has an unsafe path."""
    try:
        with zipfile.ZipFile(path) as wheel:
            for info in wheel.infolist():
                name = safe_path(info.filename, path.name)
                if not info.is_dir():
                    yield name, Entry(name, wheel.read(info), bool(info.external_attr >> 16 & 0o100))
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
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
