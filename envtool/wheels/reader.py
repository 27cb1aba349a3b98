"""A pure-Python wheel becomes a noarch Python package.

Such a package has `site-packages/` and `python-scripts/`; the installer puts them where the environment's Python looks
and writes the console scripts, whose names stand in `info/link.json` (CEP 34). `RECORD` lists what will be installed,
console scripts included, and `INSTALLER` says conda, so that pip neither upgrades nor removes the package by accident.

Out of scope: compiled wheels, and the wheel's own dependencies, which the `pip:` section of an environment locks.
"""

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

from envtool.artifacts.conda_package import Entry, Package, safe_path
from envtool.channel.python_recipe.recipe import Recipe
from envtool.errors import ArchiveError, Issue
from envtool.wheels.layout import NOARCH, record_hash

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
    members = dict(read_members(path))
    dist_info = dist_info_of(members, path.name)
    _refuse_compiled(members, dist_info, path.name)
    check_record(members, dist_info, path.name)
    metadata = headers(members, f"{dist_info}/METADATA", path.name)
    _check_identity(metadata, recipe, path.name)
    scripts = console_scripts(members, dist_info)
    files = NOARCH.place(members, dist_info, [f"bin/{name}" for name in scripts], path.name)
    return Package(
        name=recipe.name,
        version=one_line(metadata, "Version"),
        build_number=recipe.build_number,
        subdir="noarch",
        depends=(python_spec(metadata, path.name), *recipe.depends),
        license=recipe.license,
        summary=recipe.summary,
        home=recipe.home,
        files=files,
        about=(*about, *licenses(members, dist_info)),
        entry_points=tuple(f"{name} = {target}" for name, target in scripts.items()),
    )


def read_members(path: Path) -> Iterator[tuple[str, Entry]]:
    """The files of a wheel by path.

    Raises:
        ArchiveError: It is damaged, or has an unsafe path.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            for info in wheel.infolist():
                name = safe_path(info.filename, path.name)
                if not info.is_dir():
                    yield name, Entry(name, wheel.read(info), bool(info.external_attr >> 16 & 0o100))
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise ArchiveError(f"{path.name} is not a whole wheel: {error}") from error


def dist_info_of(members: Mapping[str, Entry], owner: str) -> str:
    """The .dist-info directory of a wheel.

    Raises:
        ArchiveError: It has none, or several.
    """
    found = {name.partition("/")[0] for name in members if re.match(r"[^/]+\.dist-info/", name)}
    if len(found) != 1:
        raise ArchiveError(f"{owner} must have one .dist-info directory, not {len(found)}")
    return found.pop()


def headers(members: Mapping[str, Entry], name: str, owner: str) -> Message:
    """The headers of a file of a wheel, such as METADATA.

    Raises:
        ArchiveError: It is not there.
    """
    if name not in members:
        raise ArchiveError(f"{owner} has no {name}")
    return Parser().parsestr(members[name].content.decode("utf-8"), headersonly=True)


def one_line(metadata: Message, key: str) -> str:
    """A header's value, empty where there is none."""
    return str(metadata.get(key, "")).strip()


def _refuse_compiled(members: Mapping[str, Entry], dist_info: str, owner: str) -> None:
    wheel = headers(members, f"{dist_info}/WHEEL", owner)
    tags = [str(tag) for tag in wheel.get_all("Tag", [])]
    if one_line(wheel, "Root-Is-Purelib").lower() != "true" or not all(tag.endswith("-none-any") for tag in tags):
        raise ArchiveError(
            f"{owner} is not a pure-Python wheel: its tags are {', '.join(tags) or 'none'}",
            "list it in the pip section of the environment instead",
        )


def check_record(members: Mapping[str, Entry], dist_info: str, owner: str) -> None:
    """Compare the files of a wheel with its RECORD.

    Raises:
        ArchiveError: They differ; every difference is named.
    """
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


def _check_identity(metadata: Message, recipe: Recipe, owner: str) -> None:
    name = re.sub(r"[-_.]+", "-", one_line(metadata, "Name")).lower()
    if name != recipe.name:
        raise ArchiveError(f"{owner} is another project: expected {recipe.name}, actual {name}")
    version = one_line(metadata, "Version")
    if recipe.version is not None and version != recipe.version:
        raise ArchiveError(f"{owner} is another version: expected {recipe.version}, actual {version}")


def python_spec(metadata: Message, owner: str) -> str:
    """The match spec for Python that Requires-Python stands for.

    Raises:
        ArchiveError: conda has no words for it.
    """
    clauses = [clause.strip().replace(" ", "") for clause in one_line(metadata, "Requires-Python").split(",")]
    clauses = [clause for clause in clauses if clause]
    unknown = [clause for clause in clauses if not _CLAUSE.fullmatch(clause)]
    if unknown:
        raise ArchiveError(f"{owner} has a Requires-Python that conda cannot say: {', '.join(unknown)}")
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
