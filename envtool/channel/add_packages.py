"""Packages made for a channel: of wheels, and of checkouts through their own pyproject.toml."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from envtool.artifacts import conda_package
from envtool.artifacts.conda_package import Package
from envtool.channel import edit
from envtool.channel.edit import Changed, Indexing
from envtool.console import ProgressDisplay
from envtool.errors import MissingFileError
from envtool.wheels import checkout
from envtool.wheels.to_conda import ConversionOptions, convert

# Beside sources in a checkout, and never what a wheel is made of.
_NOT_INPUTS = frozenset({"build", "dist", "node_modules", "venv", "env"})
_KEPT_HIDDEN = frozenset({".git"})  # some backends take the version from it


@dataclass(frozen=True)
class Sources:
    """What packages are made from."""

    wheels: tuple[Path, ...]
    checkouts: tuple[Path, ...]
    # What each package of a wheel is wanted for; one that is the same for several is made once.
    wishes: tuple[ConversionOptions, ...]


def make(sources: Sources, channel: Path, display: ProgressDisplay, indexing: Indexing) -> Changed:
    """Make packages and add them to a channel; the same source gives the same bytes.

    Raises:
        MissingFileError: a wheel or checkout is not found.
        ArchiveError: a wheel is damaged, or cannot become a package.
        ProcessError: the build backend of a checkout failed.
        ChannelError: the channel has another archive of the same name.
    """
    with TemporaryDirectory(prefix="envtool-packages-") as name:
        scratch = Path(name)
        _require(sources.wheels)
        wheels = [*sources.wheels, *_built(sources.checkouts, scratch, display)]
        packages = [convert(wheel, wish) for wheel in wheels for wish in sources.wishes]
        made = [_packed(each, scratch, display) for each in packages]
        changed = edit.add(channel, list(dict.fromkeys(made)), display, indexing)
        changed.require_all()
        return changed


def _require(wheels: Sequence[Path]) -> None:
    missing = [str(each) for each in wheels if not each.is_file()]
    if missing:
        raise MissingFileError(f"{', '.join(missing)}: not found", "pip download --no-deps NAME brings a wheel")


def _built(checkouts: Sequence[Path], scratch: Path, display: ProgressDisplay) -> Iterator[Path]:
    for number, root in enumerate(checkouts):
        if not (root / "pyproject.toml").is_file():
            raise MissingFileError(f"{root} has no pyproject.toml", "name the directory of a project")
        inputs = sorted(
            each.name
            for each in root.iterdir()
            if each.name in _KEPT_HIDDEN or not (each.name in _NOT_INPUTS or each.name.startswith("."))
        )
        copy, target = scratch / f"checkout-{number}", scratch / f"wheel-{number}"
        target.mkdir()
        with display.task(f"build the wheel of {root}"):
            checkout.snapshot(root, inputs, copy)
            yield checkout.build(copy, target)


def _packed(package: Package, scratch: Path, display: ProgressDisplay) -> Path:
    path = scratch / package.file_name
    if not path.exists():
        with display.task(f"pack {package.file_name}"):
            path.write_bytes(conda_package.pack(package))
    return path
