"""What is said in two places has to be the same in both."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from envtool.templates import render, templates

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


@pytest.mark.parametrize("template", ["embedded", "conda-forge", "pytorch"])
def test_an_environment_has_all_that_serve_needs(template: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chosen = templates()[template]
    given = {"channel": "file:///channel"} if any(variable.name == "channel" for variable in chosen.variables) else {}
    lines = [line.strip() for line in render(chosen, given).splitlines()]
    rendered = names([line[2:].strip() for line in lines if line.startswith("- ")])
    missing = names(project["optional-dependencies"]["serve"]) - rendered
    # Flask brings click. The template `pytorch` is locked against records without safetensors for Python 3.9.
    assert missing <= {"embedded": set(), "conda-forge": {"click"}, "pytorch": {"click", "safetensors"}}[template]
    assert rendered & {"torch", "pytorch"}


def build(source: Path, target: Path) -> tuple[Path, Path]:
    """The source distribution and the wheel of a tree, made as `python -m build` makes them."""
    argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})
    assert done.returncode == 0, done.stdout + done.stderr
    return next(target.glob("*.tar.gz")), next(target.glob("*.whl"))


def is_ours(path: Path) -> bool:
    """Whether it is a file, and no byte-code: that has other names while another test writes it."""
    return "__pycache__" not in path.parts and path.is_file()


def test_what_is_published_is_reproducible_and_holds_the_product_alone(tmp_path: Path) -> None:
    sources, wheel = build(ROOT, tmp_path / "first")
    with tarfile.open(sources) as archive:
        archive.extractall(tmp_path / "elsewhere")
        inside = {name.partition("/")[2] for name in archive.getnames()}
    again = build(tmp_path / "elsewhere" / sources.name[: -len(".tar.gz")], tmp_path / "second")
    assert [path.read_bytes() for path in again] == [sources.read_bytes(), wheel.read_bytes()]
    assert {name.partition("/")[0] for name in inside} == {
        *("envtool", "serve", "templates", "channel", "examples", "CHANGELOG.md", "LICENSE", "PKG-INFO"),
        *("README.md", "README.zh.md", "pyproject.toml", ".gitignore"),
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\nVersion: {project['version']}\n" in metadata
    assert {name.partition("/")[0] for name in names} == {
        "envtool",
        "serve",
        f"envserve-{project['version']}.dist-info",
    }
    assert not [name for name in names if name.endswith(".pyc")]
    # What the code reads at run time and is no code.
    for half in ("envtool", "serve"):
        files = [path for path in (ROOT / half).rglob("*") if is_ours(path)]
        assert {path.relative_to(ROOT).as_posix() for path in files} <= names
    for here, there in (
        ("templates", "envtool/templates"),
        ("channel/recipes", "envtool/recipes"),
        ("examples", "serve/examples"),
    ):
        files = [path for path in (ROOT / here).rglob("*") if is_ours(path)]
        assert files
        assert {f"{there}/{path.relative_to(ROOT / here).as_posix()}" for path in files} <= names


def test_the_version_is_stated_once() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    code = [path for half in ("envtool", "serve") for path in (ROOT / half).rglob("*.py")]
    stated = re.compile(rf"__version__\s*=|[\"']{re.escape(version)}[\"']")
    assert [path.name for path in code if stated.search(path.read_text())] == []


@pytest.mark.nightly
def test_a_release_is_checked_by_who_has_the_key(tmp_path: Path) -> None:
    """In a clone: what differs from its commit is no release."""
    stamp = Path(sys.prefix, "envserve-stamp.json")
    if (
        not stamp.exists()
        or hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest() not in stamp.read_text()
    ):
        pytest.skip("bin/test did not make this environment, or not for this pyproject.toml")
    clone, place, key = tmp_path / "clone", tmp_path / "release", tmp_path / "team.pem"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", key.with_suffix(".pub")], check=True)

    def release(*arguments: object, code: int = 0) -> str:
        argv = [str(clone / "bin/release"), *map(str, arguments)]
        env = {**os.environ, "ENVSERVE_VENV": sys.prefix, "PYTHONPATH": str(clone)}
        done = subprocess.run(argv, capture_output=True, text=True, env=env)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr

    release(place, "--key", key)
    release("--check", place, "--key", key.with_suffix(".pub"))
    statement = (place / "release.dsse.json").read_bytes()
    (place / "release.dsse.json").write_bytes(statement.replace(b'"sig": "', b'"sig": "A', 1))
    assert "release.dsse.json: " in release("--check", place, "--key", key.with_suffix(".pub"), code=1)
    (place / "sbom.cdx.json").write_bytes(b"{}")
    assert "sbom.cdx.json is not what SHA256SUMS states" in release("--check", place, code=1)
    (clone / "README.md").write_text("changed")
    assert "differs from its commit" in release(tmp_path / "another", code=1)
