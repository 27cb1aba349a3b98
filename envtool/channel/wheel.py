"""A pure-Python wheel becomes a noarch Python package.

Such a package has `site-packages/` and `python-scripts/`; the installer puts them where the environment's Python looks
and writes the console scripts, whose names stand in `info/link.json` (CEP 34). `RECORD` lists what will be installed,
console scripts included, and `INSTALLER` says conda, so that pip neither upgrades nor removes the package by accident.

Out of scope: compiled wheels, and the wheel's own dependencies, which the `pip:` section of an environment locks.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

from envtool.channel.payload import Entry, Package, safe_path
from envtool.channel.recipe import Recipe
from envtool.errors import ArchiveError, Issue

_SITE = "site-packages"
# Where a wheel's data directories go in a noarch package; what is not named here has no place in it.
_DATA = {"purelib": "site-packages/", "platlib": "site-packages/", "scripts": "python-scripts/", "data": ""}
_CLAUSE = re.compile(r"(?:>=|<=|==|!=|~=|>|<)[0-9][0-9a-z.]*(?:\.\*)?")


def to_package(path: Path, recipe: Recipe, about: tuple[Entry, ...]) -> Package:
    """Make a package of a wheel.

    Args:
        path: The wheel, proved already.
        recipe: Says how the package presents itself.
        about: What else goes into `info/`.

    Returns:
        The package, without its recipe's sources.

    Raises:
        ArchiveError: The wheel is damaged, compiled, or contradicts its own RECORD or the recipe.
    """
    members = dict(_members(path))
    dist_info = _dist_info(members, path.name)
    _refuse_compiled(members, dist_info, path.name)
    _check_record(members, dist_info, path.name)
    metadata = _headers(members, f"{dist_info}/METADATA", path.name)
    _check_identity(metadata, recipe, path.name)
    scripts = _console_scripts(members, dist_info)
    files = {entry.path: entry for entry in _placed(members, dist_info, path.name)}
    installer = f"{_SITE}/{dist_info}/INSTALLER"
    files[installer] = Entry(installer, b"conda\n")
    record = f"{_SITE}/{dist_info}/RECORD"
    files[record] = Entry(record, _record(files, record, scripts))
    return Package(
        name=recipe.name,
        version=_one_line(metadata, "Version"),
        build_number=recipe.build_number,
        subdir="noarch",
        depends=(_python(metadata, path.name), *recipe.depends),
        license=recipe.license,
        summary=recipe.summary,
        home=recipe.home,
        files=tuple(files[name] for name in sorted(files)),
        about=(*about, *_licenses(members, dist_info)),
        entry_points=tuple(f"{name} = {target}" for name, target in scripts.items()),
    )


def _members(path: Path) -> Iterator[tuple[str, Entry]]:
    try:
        with zipfile.ZipFile(path) as wheel:
            for info in wheel.infolist():
                name = safe_path(info.filename, path.name)
                if not info.is_dir():
                    yield name, Entry(name, wheel.read(info), bool(info.external_attr >> 16 & 0o100))
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise ArchiveError(f"{path.name} is not a whole wheel: {error}") from error


def _dist_info(members: Mapping[str, Entry], owner: str) -> str:
    found = {name.partition("/")[0] for name in members if re.match(r"[^/]+\.dist-info/", name)}
    if len(found) != 1:
        raise ArchiveError(f"{owner} must have one .dist-info directory, not {len(found)}")
    return found.pop()


def _headers(members: Mapping[str, Entry], name: str, owner: str) -> Message:
    if name not in members:
        raise ArchiveError(f"{owner} has no {name}")
    return Parser().parsestr(members[name].content.decode("utf-8"), headersonly=True)


def _one_line(metadata: Message, key: str) -> str:
    return str(metadata.get(key, "")).strip()


def _refuse_compiled(members: Mapping[str, Entry], dist_info: str, owner: str) -> None:
    wheel = _headers(members, f"{dist_info}/WHEEL", owner)
    tags = [str(tag) for tag in wheel.get_all("Tag", [])]
    if _one_line(wheel, "Root-Is-Purelib").lower() != "true" or not all(tag.endswith("-none-any") for tag in tags):
        raise ArchiveError(
            f"{owner} is not a pure-Python wheel: its tags are {', '.join(tags) or 'none'}",
            "list it in the pip section of the environment instead",
        )


def _check_record(members: Mapping[str, Entry], dist_info: str, owner: str) -> None:
    rows = csv.reader(io.StringIO(_text(members, f"{dist_info}/RECORD", owner)))
    listed = {row[0]: row[1] for row in rows if len(row) == 3}
    issues = [Issue(name, "is in RECORD but not in the wheel") for name in listed if name not in members]
    for name, entry in members.items():
        signature = name.endswith((".dist-info/RECORD", ".dist-info/RECORD.jws", ".dist-info/RECORD.p7s"))
        if not signature and listed.get(name) != _record_hash(entry):
            issues.append(
                Issue(name, f"expected {listed.get(name) or 'to be in RECORD'}, actual {_record_hash(entry)}")
            )
    if issues:
        raise ArchiveError(f"{owner} contradicts its RECORD:" + "".join(f"\n  {issue}" for issue in issues))


def _text(members: Mapping[str, Entry], name: str, owner: str) -> str:
    if name not in members:
        raise ArchiveError(f"{owner} has no {name}")
    return members[name].content.decode("utf-8")


def _check_identity(metadata: Message, recipe: Recipe, owner: str) -> None:
    name = re.sub(r"[-_.]+", "-", _one_line(metadata, "Name")).lower()
    if name != recipe.name:
        raise ArchiveError(f"{owner} is another project: expected {recipe.name}, actual {name}")
    version = _one_line(metadata, "Version")
    if recipe.version is not None and version != recipe.version:
        raise ArchiveError(f"{owner} is another version: expected {recipe.version}, actual {version}")


def _python(metadata: Message, owner: str) -> str:
    clauses = [clause.strip().replace(" ", "") for clause in _one_line(metadata, "Requires-Python").split(",")]
    clauses = [clause for clause in clauses if clause]
    unknown = [clause for clause in clauses if not _CLAUSE.fullmatch(clause)]
    if unknown:
        raise ArchiveError(f"{owner} has a Requires-Python that conda cannot say: {', '.join(unknown)}")
    return f"python {','.join(clauses)}" if clauses else "python"


def _console_scripts(members: Mapping[str, Entry], dist_info: str) -> dict[str, str]:
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


def _placed(members: Mapping[str, Entry], dist_info: str, owner: str) -> Iterator[Entry]:
    data = f"{dist_info[: -len('.dist-info')]}.data/"
    for name, entry in members.items():
        if not name.startswith(data):
            yield Entry(f"{_SITE}/{name}", entry.content, entry.is_executable)
            continue
        kind, _, rest = name[len(data) :].partition("/")
        if kind not in _DATA:
            raise ArchiveError(f"{owner} has files of the kind {kind!r}, which a noarch package has no place for")
        is_script = kind == "scripts"
        yield Entry(f"{_DATA[kind]}{rest}", entry.content, entry.is_executable or is_script)


def _record(files: Mapping[str, Entry], record: str, scripts: Mapping[str, str]) -> bytes:
    rows = [(_installed(path), _record_hash(entry), str(len(entry.content))) for path, entry in files.items()]
    rows = [row for row in rows if row[0] != _installed(record)]
    # What the installer writes has no hash that is known here; an empty one is allowed.
    rows += [(f"../../../bin/{name}", "", "") for name in scripts]
    rows.append((_installed(record), "", ""))
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(sorted(rows))
    return out.getvalue().encode("utf-8")


def _installed(path: str) -> str:
    # Relative to <prefix>/lib/python3.X/site-packages, as RECORD has it.
    top, _, rest = path.partition("/")
    if top == _SITE:
        return rest
    return f"../../../bin/{rest}" if top == "python-scripts" else f"../../../{path}"


def _record_hash(entry: Entry) -> str:
    digest = hashlib.sha256(entry.content).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _licenses(members: Mapping[str, Entry], dist_info: str) -> tuple[Entry, ...]:
    found = []
    for name, entry in sorted(members.items()):
        inner = name.removeprefix(f"{dist_info}/")
        is_license = inner.startswith("licenses/") or re.match(
            r"(LICEN[CS]E|COPYING|NOTICE)", PurePosixPath(inner).name
        )
        if inner != name and is_license:
            found.append(Entry(f"licenses/{inner.removeprefix('licenses/')}", entry.content))
    return tuple(found)
