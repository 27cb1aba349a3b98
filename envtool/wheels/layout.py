"""Places of the files of a wheel in a conda package: in a noarch one, and in one for a single Python.

A noarch package has `site-packages/` and `python-scripts/`, which the installer puts where the environment's Python
looks; any other names the places themselves. `RECORD` lists what will be installed, scripts included, and `INSTALLER`
states conda, so that pip neither upgrades nor removes the package by accident.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from envtool.artifacts.conda_package import PLACEHOLDER, Entry
from envtool.errors import ArchiveError

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
