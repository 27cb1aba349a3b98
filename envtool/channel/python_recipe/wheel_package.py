"""A pure-Python wheel becomes a noarch Python package.

Its console scripts are named in `info/link.json` (CEP 34). `RECORD` lists what will be installed, console scripts
included, and `INSTALLER` is conda, so that pip leaves the package alone. Out of scope: compiled wheels, and the wheel's
own dependencies, which the `pip:` section of an environment locks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.message import Message
from pathlib import Path

from envtool.artifacts.conda_package import Entry, Package
from envtool.channel.python_recipe.recipe import Recipe
from envtool.errors import ArchiveError
from envtool.wheels import reader
from envtool.wheels.layout import NOARCH


def to_package(path: Path, recipe: Recipe, about: tuple[Entry, ...]) -> Package:
    """Make a package of a wheel.

    Raises:
        ArchiveError: the wheel is damaged, compiled, or contradicts its own RECORD or the recipe.
    """
    members = dict(reader.read_members(path))
    dist_info = reader.dist_info_of(members, path.name)
    _refuse_compiled(members, dist_info, path.name)
    reader.check_record(members, dist_info, path.name)
    metadata = reader.headers(members, f"{dist_info}/METADATA", path.name)
    _check_identity(metadata, recipe, path.name)
    scripts = reader.console_scripts(members, dist_info)
    files = NOARCH.place(members, dist_info, [f"bin/{name}" for name in scripts], path.name)
    return Package(
        name=recipe.name,
        version=reader.one_line(metadata, "Version"),
        build_number=recipe.build_number,
        subdir="noarch",
        depends=(reader.python_spec(metadata, path.name), *recipe.depends),
        license=recipe.license,
        summary=recipe.summary,
        home=recipe.home,
        files=files,
        about=(*about, *reader.licenses(members, dist_info)),
        entry_points=tuple(f"{name} = {target}" for name, target in scripts.items()),
    )


def _refuse_compiled(members: Mapping[str, Entry], dist_info: str, owner: str) -> None:
    wheel = reader.headers(members, f"{dist_info}/WHEEL", owner)
    tags = [str(tag) for tag in wheel.get_all("Tag", [])]
    is_pure = reader.one_line(wheel, "Root-Is-Purelib").lower() == "true"
    if not is_pure or not all(tag.endswith("-none-any") for tag in tags):
        raise ArchiveError(
            f"{owner} is not a pure-Python wheel: its tags are {', '.join(tags) or 'none'}",
            "list it in the pip section of the environment instead",
        )


def _check_identity(metadata: Message, recipe: Recipe, owner: str) -> None:
    name = re.sub(r"[-_.]+", "-", reader.one_line(metadata, "Name")).lower()
    if name != recipe.name:
        raise ArchiveError(f"{owner} is another project: expected {recipe.name}, actual {name}")
    version = reader.one_line(metadata, "Version")
    if recipe.version is not None and version != recipe.version:
        raise ArchiveError(f"{owner} is another version: expected {recipe.version}, actual {version}")
