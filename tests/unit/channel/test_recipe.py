from __future__ import annotations

from pathlib import Path

import pytest

from envtool.channel.python_recipe import recipe
from envtool.channel.python_recipe.recipe import CheckoutSource, DebianSource, WheelSource
from envtool.errors import MissingFileError, RecipeError

SHA256 = "0123456789abcdef" * 4


def parse(text: str, name: str = "demo") -> recipe.Recipe:
    return recipe.parse(text, Path(f"/recipes/{name}/recipe.yml"))


def issues(text: str, name: str = "demo") -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse(text, name)
    return [str(issue) for issue in caught.value.issues]


def test_our_own_recipes_are_valid() -> None:
    directory = recipe.directory()
    loaded = {name: recipe.load(name, directory) for name in recipe.names(directory)}
    assert set(loaded) == {"envserve", "pip", "python"}
    python = loaded["python"].source
    assert isinstance(python, DebianSource)
    assert len(python.packages) == 17
    assert {file.archive for file in python.packages} == {"main", "security"}
    assert python.upstream.name == "python3.9_3.9.2.orig.tar.xz"
    assert loaded["python"].depends == ("__glibc >=2.29",)
    assert isinstance(loaded["pip"].source, WheelSource)
    assert isinstance(loaded["envserve"].source, CheckoutSource)
    assert loaded["envserve"].version is None


def test_the_inputs_of_our_own_recipe_are_there() -> None:
    directory = recipe.directory()
    root = recipe.checkout_root(directory)
    source = recipe.load("envserve", directory).source
    assert root is not None
    assert isinstance(source, CheckoutSource)
    assert [name for name in source.inputs if not (root / name).exists()] == []


def test_a_recipe_without_a_checkout_around_it_belongs_to_none(tmp_path: Path) -> None:
    assert recipe.checkout_root(tmp_path / "envtool" / "recipes") is None
    assert recipe.checkout_root(tmp_path / "channel" / "recipes") is None


def test_a_whole_wheel_recipe() -> None:
    text = f"""\
package:
  name: demo
  version: "1.0"
  build_number: 3
  summary: A demo.
  license: MIT
  depends: [__glibc >=2.17]
source:
  wheel:
    sha256: {SHA256}
"""
    parsed = parse(text)
    assert parsed.version == "1.0"
    assert parsed.build_number == 3
    assert parsed.depends == ("__glibc >=2.17",)
    assert parsed.source == WheelSource(SHA256)
    assert parsed.text == text


def test_every_issue_comes_at_once_with_its_line() -> None:
    text = """\
package:
  name: Other Name
  version: 1.0
  bild_number: 3
  build_number: -1
  license: MIT
source:
  debian:
    without: yes
    packages:
      - archive: universe
        path: ../../etc/passwd
        sha256: ABC
        size: 3
extra: 1
"""
    found = issues(text)
    for expected in (
        "recipe.yml:2: name must look like",
        "recipe.yml:2: name must be 'demo', its directory's name",
        "recipe.yml:3: version must be a string, not the number 1.0",
        "recipe.yml:4: unknown key 'bild_number' in package",
        "recipe.yml:5: build_number must be a whole number from 0 on, not -1",
        "recipe.yml:9: without must be a list",
        "recipe.yml:11: archive must be main or security, not 'universe'",
        "recipe.yml:12: path must look like",
        "recipe.yml:13: sha256 must look like",
        "recipe.yml:14: unknown key 'size' in a package",
        "recipe.yml:15: unknown key 'extra' in a recipe",
    ):
        assert any(line.startswith(expected) for line in found), (expected, found)
    assert any("needs 'summary'" in line for line in found)
    assert any("debian needs 'upstream'" in line for line in found)
    lines = [int(line.split(":")[1]) for line in found]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("source: {}", "source must have exactly one of debian, wheel, checkout"),
        (f"source: {{wheel: {{sha256: {SHA256}}}, checkout: {{inputs: [a]}}}}", "source must have exactly one of"),
        ("source: [1]", "source must be a mapping, not a list"),
        ("source: {tarball: {}}", "unknown key 'tarball' in source"),
        ("source: {wheel: {}}", "needs 'sha256'"),
        ("source: {checkout: {}}", "needs 'inputs'"),
        ("source: {checkout: {inputs: [a]}}", "a checkout has its version in pyproject.toml"),
        ("", "a recipe needs 'source'"),
    ],
)
def test_sources_that_cannot_be(source: str, expected: str) -> None:
    package = "package: {name: demo, version: '1', summary: A demo., license: MIT}\n"
    assert any(expected in line for line in issues(package + source))


@pytest.mark.parametrize(
    "path", ["pool/../../etc/passwd", "pool//x.deb", "/pool/x.deb", "pool/a b.deb", "x.deb", "pool/"]
)
def test_pool_paths_that_lead_elsewhere(path: str) -> None:
    package = "package: {name: demo, version: '1', summary: A demo., license: MIT}\n"
    upstream = f"upstream: {{archive: main, path: '{path}', sha256: {SHA256}, take: [a]}}"
    found = issues(f"{package}source: {{debian: {{packages: [], {upstream}}}}}")
    assert len(found) == 1
    assert "path must look like" in found[0]


@pytest.mark.parametrize("text", ["", "[]", "just words", "package: [", "a: 1\na: 2\n"])
def test_what_is_no_recipe_at_all(text: str) -> None:
    assert issues(text)


def test_a_recipe_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(MissingFileError) as caught:
        recipe.load("nothing", recipe.directory())
    assert caught.value.hint == "recipes: envserve, pip, python"
