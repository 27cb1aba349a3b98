"""A database of vulnerabilities in the OSV format (a zip archive of JSON records as OSV.dev exports it, a directory of
them, or one file with one or a list), and whether it names a version. Wheels are looked up in the ecosystem PyPI, conda
packages as the Python distributions that they bring, and by their own names in records whose purl has the type `conda`.
Source: OSV schema 1.7, "affected" and "Evaluation"."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from packaging.utils import canonicalize_name
from packaging.version import Version

from envtool.errors import EnvtoolError
from envtool.prefix import rattler

LEVELS = ("low", "medium", "high", "critical")
UNKNOWN = "unknown"
_NAME = re.compile(rb'"name"\s*:\s*"([^"]+)"')
_SEPARATORS = re.compile(rb"[-_.]+")
_MODIFIED = re.compile(rb'"modified"\s*:\s*"([^"]+)"')
_HINT = "mirror one: docs/how-to/audit.md shows how"
# An ecosystem and a normalized name; what versions are compared by.
Name = tuple[str, str]
Key = Callable[[str], Any]


@dataclass(frozen=True)
class Vulnerability:
    """One vulnerability, as it affects one package."""

    id: str
    aliases: frozenset[str]  # every identifier that it has, its own included
    summary: str
    level: str  # one of LEVELS, or UNKNOWN
    fixed: str | None  # the lowest version that has a fix; None where there is none
    published: str = ""  # when it became known, as ISO 8601; empty where no record states it


@dataclass(frozen=True)
class Database:
    """Records that name one of some packages (`modified`: when the newest was changed, ISO 8601, empty if unknown)."""

    records: Mapping[Name, Sequence[Mapping[str, Any]]]
    count: int
    modified: str

    def find(self, versions: Mapping[Name, str]) -> Iterator[Vulnerability]:
        """The vulnerabilities of a package under its names; those that are one by their aliases are given once. Raises
        EnvtoolError if a record of it cannot be understood."""
        seen: set[str] = set()
        for name, version in versions.items():
            found = []
            for record in self.records.get(name, ()):
                try:
                    found += [
                        _vulnerability(record, affected, version, name[0])
                        for affected in record["affected"]
                        if _name_of(affected) == name and _is_affected(affected, version, name[0])
                    ]
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    message = f"{record.get('id', 'a record')}, of {name[1]}, is not in the OSV format: {error!r}"
                    raise EnvtoolError(message, _HINT) from error
            # Those with more to tell first: GitHub's records have a level and a summary, PyPA's often neither.
            for each in sorted(found, key=lambda one: (one.level == UNKNOWN, one.fixed is None, one.id)):
                if not each.aliases & seen:
                    yield each
                seen |= each.aliases


def read(path: Path, names: set[Name]) -> Database:
    """Read what a database has on some packages. Raises EnvtoolError if it cannot be read, or has no record."""
    wanted = {name.encode() for _, name in names}
    records: dict[Name, list[Mapping[str, Any]]] = {}
    count, modified = 0, b""
    try:
        for text in _texts(path):
            count += 1
            modified = max(modified, *_MODIFIED.findall(text)[:1] or [b""])
            # Parsing all of it takes ten times as long.
            if wanted.isdisjoint(_SEPARATORS.sub(b"-", each).lower() for each in _NAME.findall(text)):
                continue
            record = json.loads(text)
            if record.get("withdrawn") is None:
                for name in {_name_of(each) for each in record.get("affected", ())} & names:
                    records.setdefault(name, []).append(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise EnvtoolError(f"{path} cannot be read as a database in the OSV format: {error}", _HINT) from error
    if not count:
        raise EnvtoolError(f"{path} has no record in the OSV format", _HINT)
    return Database(records, count, modified.decode())


def _texts(path: Path) -> Iterator[bytes]:
    if path.is_dir():
        yield from (each.read_bytes() for each in sorted(path.rglob("*.json")))
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(each) for each in archive.namelist() if each.endswith(".json"))
    else:
        value = json.loads(path.read_bytes())
        yield from (json.dumps(each).encode() for each in (value if isinstance(value, list) else [value]))


def _name_of(affected: Mapping[str, Any]) -> Name:
    package = affected.get("package", {})
    if str(package.get("purl", "")).startswith("pkg:conda/"):
        return "conda", str(package["purl"])[len("pkg:conda/") :].partition("?")[0].partition("@")[0].rpartition("/")[2]
    return str(package.get("ecosystem")), canonicalize_name(str(package.get("name")))


def _is_affected(affected: Mapping[str, Any], version: str, ecosystem: str) -> bool:
    key = _KEYS[ecosystem]
    listed = affected.get("versions", ())
    return any(_is_within(each["events"], version, key) for each in _ranges(affected)) or (
        version in listed or (ecosystem == "PyPI" and key(version) in map(key, listed))
    )


def _ranges(affected: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in affected.get("ranges", ()) if each.get("type") != "GIT"]


def _is_within(events: Sequence[Mapping[str, str]], version: str, key: Key) -> bool:
    own, is_within = key(version), {"introduced": "0"} in events
    # Of equal versions, what ends a range comes before what begins one.
    marks = [(key(at), kind == "introduced", kind) for each in events for kind, at in each.items() if at != "0"]
    for at, _, kind in sorted(marks):
        if own > at or (own == at and kind != "last_affected"):
            is_within = kind == "introduced"
    return is_within


def _parsed(version: str) -> Version:
    try:
        # The local part (`+cu118`) names a build of the same source.
        return Version(Version(version).public)
    except ValueError:  # also of a number with more digits than Python reads
        return Version("0")


_KEYS: Mapping[str, Key] = {"PyPI": _parsed, "conda": rattler.version_key}


def _vulnerability(
    record: Mapping[str, Any], affected: Mapping[str, Any], version: str, ecosystem: str
) -> Vulnerability:
    key = _KEYS[ecosystem]
    fixes = [event["fixed"] for each in _ranges(affected) for event in each["events"] if "fixed" in event]
    fixed = min((each for each in fixes if key(version) < key(each)), key=key, default=None)
    names = frozenset({str(record["id"]), *map(str, record.get("aliases", ()))})
    summary = str(record.get("summary") or record.get("details", "")).strip().partition("\n")[0][:200]
    published = str(record.get("published", ""))
    return Vulnerability(str(record["id"]), names, summary, _level(record, affected), fixed, published)


def _level(record: Mapping[str, Any], affected: Mapping[str, Any]) -> str:
    stated = str(record.get("database_specific", {}).get("severity", "")).lower().replace("moderate", "medium")
    if stated in LEVELS:
        return stated
    try:
        import cvss  # of the extra [audit]
    except ImportError:
        return UNKNOWN
    scores = []
    for each in (*record.get("severity", ()), *affected.get("severity", ())):
        kind = {"CVSS_V3": cvss.CVSS3, "CVSS_V4": cvss.CVSS4}.get(each.get("type"))
        try:
            scores += [float(kind(each["score"]).scores()[0])] if kind else []
        except cvss.CVSSError:
            continue  # an invalid vector states no level
    bounds = zip(reversed(LEVELS), (9.0, 7.0, 4.0, 0.1))
    return next((level for level, least in bounds if max(scores, default=0) >= least), UNKNOWN)
