"""Recipes: what each package of the embedded channel is made of, its sources by sha256. People write the keys, so that
an unknown one is an error, and all issues of a file come at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Union

import envtool
from envtool.errors import MissingFileError, RecipeError
from envtool.yaml_document import Value, YamlDocument, read_text

ARCHIVES = ("main", "security")
_PACKAGE_KEYS = ("name", "version", "build_number", "summary", "home", "license", "depends")
_SOURCE_KINDS = ("debian", "wheel", "checkout")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_VERSION = re.compile(r"[0-9][0-9a-z._+!]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_POOL_PATH = re.compile(r"pool(?:/(?!\.)[A-Za-z0-9._+~-]+)+")
_HINT = "channel/README.md describes the keys of a recipe"


class PoolFile(NamedTuple):
    """A file of a Debian archive."""

    archive: str
    path: str  # its path below the archive's base URI, as Debian writes it (`pool/…`)
    sha256: str

    @property
    def name(self) -> str:
        """The file name."""
        return self.path.rpartition("/")[2]


class DebianSource(NamedTuple):
    """CPython from Debian packages, with a few files of the upstream tarball."""

    packages: tuple[PoolFile, ...]
    upstream: PoolFile
    take: tuple[str, ...]  # what is taken from its `Lib/` in place of Debian's: files and directories
    without: tuple[str, ...]  # extension modules that are left out because their libraries are not packaged


class WheelSource(NamedTuple):
    """A pure-Python wheel from the package index that pip is configured for."""

    sha256: str


class CheckoutSource(NamedTuple):
    """The checkout that holds the recipe, through its own pyproject.toml."""

    inputs: tuple[str, ...]


Source = Union[DebianSource, WheelSource, CheckoutSource]


class Recipe(NamedTuple):
    """One package of the channel."""

    name: str
    version: str | None  # its version; None for a checkout, whose pyproject.toml has it
    build_number: int
    summary: str
    home: str | None
    license: str
    depends: tuple[str, ...]  # the match specs that it needs, on top of a wheel's `Requires-Python`
    source: Source
    text: str
    path: Path


def directory() -> Path:
    """Where the recipes are: beside the package in a wheel, at `channel/recipes` in a checkout."""
    package = Path(envtool.__file__).parent
    for place in (package / "recipes", package.parent / "channel" / "recipes"):
        if place.is_dir():
            return place
    raise MissingFileError("recipes of the embedded channel not found", "install envserve again")


def checkout_root(recipes: Path) -> Path | None:
    """The root of the checkout that the recipes belong to, or None where they come from an installed wheel."""
    root = recipes.parent.parent
    return root if recipes.parent.name == "channel" and (root / "pyproject.toml").is_file() else None


def names(recipes: Path) -> tuple[str, ...]:
    """The recipes that there are, sorted."""
    return tuple(sorted(path.parent.name for path in recipes.glob("*/recipe.yml")))


def load(name: str, recipes: Path) -> Recipe:
    """Read one recipe. Raises RecipeError if it is malformed; all issues are named."""
    path = recipes / name / "recipe.yml"
    if not path.is_file():
        raise MissingFileError(f"recipe {name!r} not found", f"recipes: {', '.join(names(recipes)) or 'none'}")
    return parse(read_text(path, _HINT), path)


def parse(text: str, path: Path) -> Recipe:
    """Read a recipe, whose directory is named like the package. Raises RecipeError with all issues."""
    document = YamlDocument(path.name, text)
    recipe = None if document.issues else _Reader(document).recipe(text, path)
    if recipe is None or document.issues:
        issues = sorted(document.issues, key=lambda issue: int(issue.place.rpartition(":")[2]))
        raise RecipeError(str(path), issues, _HINT)
    return recipe


class _Reader:
    """Reads the parts of one document; what is wrong becomes an issue and an empty value."""

    def __init__(self, document: YamlDocument) -> None:
        self.document = document

    def recipe(self, text: str, path: Path) -> Recipe:
        top = Value(
            self.document.mapping(self.document.root, "a recipe", ("package", "source")), self.document.root.line
        )
        stated = self._required(top, "package", "a recipe")
        package = Value(self.document.mapping(stated, "package", _PACKAGE_KEYS), stated.line if stated else top.line)
        source = self.source(self._required(top, "source", "a recipe"))
        name = self._text(package, "name", _NAME)
        if name and name != path.parent.name:
            self.document.issue(package.data["name"].line, f"name must be {path.parent.name!r}, its directory's name")
        return Recipe(
            name=name, version=self._version(package, isinstance(source, CheckoutSource)),
            build_number=self._number(package.data.get("build_number")), summary=self._text(package, "summary"),
            home=self.document.string(package.data.get("home"), "home"), license=self._text(package, "license"),
            depends=self._texts(package, "depends"), source=source, text=text, path=path,
        )  # fmt: skip

    def source(self, value: Value | None) -> Source:
        kinds = self.document.mapping(value, "source", _SOURCE_KINDS)
        known = [kind for kind in kinds if kind in _SOURCE_KINDS]
        if value is not None and isinstance(value.data, dict) and len(known) != 1:
            self.document.issue(value.line, f"source must have exactly one of {', '.join(_SOURCE_KINDS)}")
        kind = known[0] if known else "checkout"
        body = kinds.get(kind, Value(None, value.line if value else 1))
        if kind == "debian":
            return self._debian(body)
        if kind == "wheel":
            self.document.mapping(body, "wheel", ("sha256",))
            return WheelSource(self._text(body, "sha256", _SHA256))
        self.document.mapping(body, "checkout", ("inputs",))
        return CheckoutSource(self._texts(body, "inputs", is_required=bool(known)))

    def _debian(self, body: Value) -> DebianSource:
        self.document.mapping(body, "debian", ("packages", "upstream", "without"))
        upstream = self._required(body, "upstream", "debian") or Value(None, body.line)
        packages = self._required(body, "packages", "debian")
        return DebianSource(
            packages=tuple(self._pool_file(each, "a package") for each in self.document.items(packages, "packages")),
            upstream=self._pool_file(upstream, "upstream", ("take",)),
            take=self._texts(upstream, "take", is_required=True),
            without=self._texts(body, "without"),
        )

    def _pool_file(self, value: Value, what: str, more: tuple[str, ...] = ()) -> PoolFile:
        self.document.mapping(value, what, ("archive", "path", "sha256", *more))
        archive = self._text(value, "archive")
        if archive and archive not in ARCHIVES:
            self.document.issue(_entries(value)["archive"].line, f"archive must be main or security, not {archive!r}")
        return PoolFile(archive, self._text(value, "path", _POOL_PATH), self._text(value, "sha256", _SHA256))

    def _required(self, owner: Value, key: str, what: str) -> Value | None:
        value = _entries(owner).get(key)
        if value is None or value.data is None:
            self.document.issue(value.line if value else owner.line, f"{what} needs {key!r}")
            return None
        return value

    def _text(self, owner: Value, key: str, pattern: re.Pattern[str] | None = None) -> str:
        value = self._required(owner, key, "this")
        text = self.document.string(value, key) or ""
        if value and text and pattern and not pattern.fullmatch(text):
            self.document.issue(value.line, f"{key} must look like {pattern.pattern}, not {text!r}")
        return text

    def _texts(self, owner: Value, key: str, *, is_required: bool = False) -> tuple[str, ...]:
        value = self._required(owner, key, "this") if is_required else _entries(owner).get(key)
        return tuple(text for text, _ in self.document.strings(value, key))

    def _version(self, package: Value, is_checkout: bool) -> str | None:
        if not is_checkout:
            return self._text(package, "version", _VERSION)
        if "version" in package.data:
            self.document.issue(package.data["version"].line, "a checkout has its version in pyproject.toml: remove it")
        return None

    def _number(self, value: Value | None) -> int:
        if value is None or (isinstance(value.data, int) and not isinstance(value.data, bool) and value.data >= 0):
            return value.data if value else 0
        self.document.issue(value.line, f"build_number must be a whole number from 0 on, not {value.data!r}")
        return 0


def _entries(value: Value) -> Mapping[str, Value]:
    return value.data if isinstance(value.data, dict) else {}
