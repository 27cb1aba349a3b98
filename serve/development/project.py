"""A project that runs: model class, training, settings, environment, test and CI, from the examples."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from serve.errors import OperationError

TASKS = ("tabular", "image", "text", "sequence")
_IGNORED = shutil.ignore_patterns("__pycache__", "checkpoints", "store")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def create_project(directory: Path, task: str) -> Path:
    """Write a project for one of `TASKS`, named as the directory is, whole or not at all; raises `OperationError`."""
    if not _NAME.fullmatch(directory.name):
        raise OperationError(f"the name: expected letters, digits, - and _, found {directory.name!r}")
    with new_directory(directory) as made:
        examples = Path(__file__).parent.parent / "examples"
        if not examples.is_dir():  # not in an installed package, but at the root of a checkout
            examples = examples.parent.parent / "examples"
        shutil.copytree(examples / task, made, ignore=_IGNORED, dirs_exist_ok=True)
        for source in sorted((examples / "project").rglob("*")):
            target = made / source.relative_to(examples / "project")
            if source.is_file():
                target = target.with_name(".gitignore") if target.name == "gitignore" else target
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(source.read_text("utf-8").replace("{{ name }}", directory.name), "utf-8")
    return directory


@contextlib.contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """Give a directory to write into, which takes its place at the end of the block; `OperationError`: it has files."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise OperationError(f"{directory}: expected no such directory, or an empty one", hint="give another name")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as place:
        made = Path(place) / directory.name
        made.mkdir()
        yield made
        made.replace(directory)
