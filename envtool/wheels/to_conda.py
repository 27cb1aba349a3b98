"""Any wheel becomes a conda package with its dependencies: noarch, or for one Python and platform if it is compiled.

Unlike a recipe's wheel, whose dependencies are in the recipe, this one's Requires-Dist becomes match specs; the names
of PyPI are taken for those of conda unless others are given. Out of scope: shared libraries that a wheel brings and a
conda package has as well, and Windows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from pathlib import Path

from envtool.artifacts.conda_package import PLACEHOLDER, Entry, Package
from envtool.errors import ArchiveError
from envtool.wheels import layout, reader, tags
from envtool.wheels import requires as depends
from envtool.wheels.license import license_of

_SCRIPT = """\
#!{placeholder}/bin/python
import sys

from {module} import {name}

if __name__ == "__main__":
    sys.exit({target}())
"""
_ENTRY_POINT = re.compile(r"([A-Za-z_][\w.]*)\s*:\s*([A-Za-z_][\w.]*)")


@dataclass(frozen=True)
class ConversionOptions:
    """What a package is wanted for."""

    python: str | None = None
    platform: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    build_number: int = 0  # the higher wins


def convert(path: Path, wish: ConversionOptions) -> Package:
    """Make a package of a wheel.

    Raises:
        ArchiveError: the wheel is damaged, contradicts its RECORD, does not fit the wish, or needs what conda has no
            words for.
    """
    members = dict(reader.read_members(path))
    dist_info = reader.dist_info_of(members, path.name)
    reader.check_record(members, dist_info, path.name)
    metadata = reader.headers(members, f"{dist_info}/METADATA", path.name)
    fit = tags.fit(path.name, wish.python, wish.platform)
    scripts = reader.console_scripts(members, dist_info)
    name = re.sub(r"[-_.]+", "-", reader.one_line(metadata, "Name")).lower()
    package = Package(
        name=wish.names.get(name, name),
        version=reader.one_line(metadata, "Version").replace("-", "_"),
        build_number=wish.build_number,
        subdir=fit.subdir,
        depends=_depends(metadata, fit, wish, path.name),
        license=license_of(metadata.as_string()) or "unknown",
        summary=reader.one_line(metadata, "Summary"),
        home=reader.one_line(metadata, "Home-page") or None,
        files=(),
        about=(*reader.licenses(members, dist_info), _origin(path)),
    )
    if fit.python is None:
        files = layout.NOARCH.place(members, dist_info, [f"bin/{name}" for name in scripts], path.name)
        return replace(package, files=files, entry_points=tuple(f"{name} = {scripts[name]}" for name in scripts))
    generated = [_script(name, target, path.name) for name, target in scripts.items()]
    places = layout.for_python(fit.python, package.name)
    files = (*places.place(members, dist_info, [each.path for each in generated], path.name), *generated)
    return replace(package, files=files, build_prefix=f"py{fit.python.replace('.', '')}")


def _depends(metadata: Message, fit: tags.Fit, wish: ConversionOptions, owner: str) -> tuple[str, ...]:
    requires = [str(each) for each in metadata.get_all("Requires-Dist", [])]
    python = reader.python_spec(metadata, owner)
    if fit.python is not None:
        needed = depends.match_specs(requires, depends.Target(fit.subdir, fit.python), wish.names, owner)
        return (*fit.depends, *([python] if python != "python" else []), *needed)
    try:
        return (python, *depends.match_specs(requires, depends.Target("noarch", None), wish.names, owner))
    except ArchiveError:
        if wish.python is None:
            raise
    # A marker asks for the Python, so that the package is for the one that was named, and no other.
    minor = int(wish.python.partition(".")[2])
    pin = f"python >=3.{minor},<3.{minor + 1}.0a0"
    return (pin, *depends.match_specs(requires, depends.Target("noarch", wish.python), wish.names, owner))


def _script(name: str, target: str, owner: str) -> Entry:
    match = _ENTRY_POINT.fullmatch(target)
    if not match:
        raise ArchiveError(f"{owner} has an invalid console script: {name} = {target}")
    text = _SCRIPT.format(placeholder=PLACEHOLDER, module=match[1], name=match[2].partition(".")[0], target=match[2])
    return Entry(f"bin/{name}", text.encode(), is_executable=True, has_placeholder=True)


def _origin(path: Path) -> Entry:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Entry("recipe/wheel.json", (json.dumps({"file": path.name, "sha256": digest}, indent=1) + "\n").encode())
