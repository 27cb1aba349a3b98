from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from envtool.errors import MissingFileError
from envtool.wheels import checkout

INPUTS = ("pyproject.toml", "package", "deep/er")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("package/sub", "deep/er", "other"):
        (root / name).mkdir(parents=True)
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "package" / "a.py").write_text("a\n")
    (root / "package" / "sub" / "b.py").write_text("b\n")
    (root / "deep" / "er" / "c.txt").write_text("c\n")
    (root / "other" / "d.py").write_text("d\n")
    return root


def digest(root: Path, name: str) -> str:
    target = root.parent / name
    target.mkdir()
    return checkout.snapshot(root, INPUTS, target)


def test_a_snapshot_has_the_inputs_and_nothing_else(root: Path) -> None:
    (root / "package" / "__pycache__").mkdir()
    (root / "package" / "__pycache__" / "a.cpython-39.pyc").write_bytes(b"")
    (root / "package" / ".ruff_cache").mkdir()
    (root / "package" / ".ruff_cache" / "x").write_bytes(b"")
    digest(root, "copy")
    copied = {
        str(path.relative_to(root.parent / "copy")) for path in (root.parent / "copy").rglob("*") if path.is_file()
    }
    assert copied == {"pyproject.toml", "package/a.py", "package/sub/b.py", "deep/er/c.txt"}


def test_the_digest_follows_the_inputs_only(root: Path) -> None:
    first = digest(root, "1")
    (root / "other" / "d.py").write_text("changed\n")
    (root / "package" / "__pycache__").mkdir()
    (root / "package" / "__pycache__" / "a.pyc").write_bytes(b"1")
    assert digest(root, "2") == first
    (root / "package" / "a.py").chmod(0o755)
    executable = digest(root, "3")
    (root / "package" / "a.py").write_text("changed\n")
    changed = digest(root, "4")
    (root / "package" / "a.py").rename(root / "package" / "aa.py")  # in the same place of the order
    assert len({first, executable, changed, digest(root, "5")}) == 4


def test_inputs_that_are_not_there_are_all_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="one, two"):
        checkout.snapshot(root, ("pyproject.toml", "one", "two"), tmp_path / "copy")


def test_the_recipe_has_all_that_our_wheel_is_made_of() -> None:
    repository = Path(__file__).parents[3]
    settings = (repository / "pyproject.toml").read_text()
    section = settings.partition("wheel.force-include]\n")[2].partition("\n\n")[0]
    included = {line.split('"')[1] for line in section.splitlines()}
    recipe = yaml.safe_load((repository / "channel/recipes/envserve/recipe.yml").read_text())
    assert included
    assert included <= set(recipe["source"]["checkout"]["inputs"])
