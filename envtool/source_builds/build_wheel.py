"""A wheel from the files of a project: built with given tools and nothing else, and the same bytes on every machine.

What backends let vary (times, modes, order, compression) is made equal afterwards; a difference in content is left, so
that it is found. Out of scope: compiled wheels, which depend on the compiler and fit one platform only.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from envtool.errors import ProcessError, SolveError
from envtool.pypi import uv
from envtool.wheels.layout import record_hash
from envtool.wheels.reader import dist_info_of, headers, one_line, read_members

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_DEFAULT_REQUIREMENTS = ("setuptools>=40.8.0",)
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
# Backends that take the version from git's tags take it from these instead.
_VERSION_VARIABLES = ("SETUPTOOLS_SCM_PRETEND_VERSION", "PDM_BUILD_SCM_VERSION")
_HINT = "the project's own build failed; is it one that `pip wheel` can build from this revision?"


def build(project: Path, tools: Path, committed_at: int, scratch: Path, version: str | None = None) -> Path:
    """Build a pure-Python wheel.

    Args:
        committed_at: what the backend is given as the time, in seconds since 1970.

    Raises:
        SolveError: it cannot be built, or is not pure Python.
    """
    scratch.mkdir()
    argv = ["build", "--wheel", "--quiet", "--no-config", "--offline", "--no-index", "--find-links", str(tools)]
    argv += ["--python", sys.executable, "--cache-dir", str(scratch / "cache"), "--out-dir", str(scratch / "built")]
    try:
        uv.run([*argv, str(project)], env=_environment(committed_at, version), cwd=scratch)
    except ProcessError as error:
        raise SolveError(f"the wheel of {project.name} cannot be built:\n{error.output}", _HINT) from error
    made = next((scratch / "built").glob("*.whl"))
    _refuse_compiled(made)
    return _equalized(made, scratch / made.name)


def requirements(project: Path) -> tuple[str, ...]:
    """What the project's build asks for before it runs. Source: PEP 518, "build-system table". Raises SolveError if its
    pyproject.toml is not valid, or it has nothing to build."""
    path = project / "pyproject.toml"
    if not path.exists() and not (project / "setup.py").exists():
        raise SolveError(f"{project.name} has neither pyproject.toml nor setup.py", "#subdirectory= states where it is")
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        stated = tomllib.loads(text).get("build-system", {}).get("requires", _DEFAULT_REQUIREMENTS)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise SolveError(f"{project.name}/pyproject.toml cannot be read: {error}") from error
    # Older setuptools ask for wheel only while they run, when nothing more can be had.
    more = ["wheel"] if any(re.match(r"setuptools\b", each, re.IGNORECASE) for each in stated) else []
    return tuple(dict.fromkeys([*stated, *more]))


def name_and_version(wheel: str) -> tuple[str, str]:
    """The normalized name and the version in the name of a wheel's file. Source: PEP 427, "File name"."""
    name, version = wheel.split("-")[:2]
    return re.sub(r"[-_.]+", "-", name).lower(), version.replace("_", "-")


def _environment(committed_at: int, version: str | None) -> Mapping[str, str]:
    # What this user has set for uv, pip and Python would make the wheel this machine's.
    foreign = {name: "" for name in os.environ if name.startswith(("UV_", "PIP_", "PYTHON", "SETUPTOOLS_", "HATCH_"))}
    told = dict.fromkeys(_VERSION_VARIABLES, version or "")
    fixed = {"SOURCE_DATE_EPOCH": str(committed_at), "PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    return {**foreign, **told, **fixed}


def _refuse_compiled(wheel: Path) -> None:
    members = dict(read_members(wheel))
    stated = headers(members, f"{dist_info_of(members, wheel.name)}/WHEEL", wheel.name)
    tags = [str(tag) for tag in stated.get_all("Tag", [])]
    if one_line(stated, "Root-Is-Purelib").lower() != "true" or not all(tag.endswith("-none-any") for tag in tags):
        raise SolveError(
            f"{wheel.name} is not pure Python: what a compiler makes is other bytes on every machine",
            "build the wheel once, put it where all can get it, and write NAME @ URL",
        )


def _equalized(wheel: Path, target: Path) -> Path:
    """The same files in a fixed order, with fixed times and modes, uncompressed: zlib's output varies."""
    members = dict(read_members(wheel))
    record = f"{dist_info_of(members, wheel.name)}/RECORD"
    names = sorted((name for name in members if name != record), key=lambda name: (".dist-info/" in name, name))
    lines = [f"{_field(name)},{record_hash(members[name])},{len(members[name].content)}\n" for name in names]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            _write(archive, name, members[name].content, is_executable=members[name].is_executable)
        _write(archive, record, "".join([*lines, f"{record},,\n"]).encode(), is_executable=False)
    return target


def _write(archive: zipfile.ZipFile, name: str, content: bytes, *, is_executable: bool) -> None:
    info = zipfile.ZipInfo(name, _ZIP_TIME)
    info.create_system = _UNIX
    info.external_attr = (0o100755 if is_executable else 0o100644) << 16
    archive.writestr(info, content)


def _field(name: str) -> str:
    quoted = name.replace('"', '""')
    return f'"{quoted}"' if re.search(r'[",\r\n]', name) else name
