"""Packages for a channel of one's own, made from wheels and from checkouts through their own pyproject.toml."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from envtool.channel import archive, checkout, contents
from envtool.channel.contents import Changed, Indexing
from envtool.channel.convert import Wish, convert
from envtool.errors import MissingFileError
from envtool.report import Display

# Beside sources in a checkout, and never what a wheel is made of.
_NOT_INPUTS = frozenset({"build", "dist", "node_modules", "venv", "env"})
_KEPT_HIDDEN = frozenset({".git"})  # some backends take the version from it


@dataclass(frozen=True)
class Sources:
    """What packages are made from.

    Args:
        wheels: Wheels.
        checkouts: Directories with a pyproject.toml.
        wishes: What each package is wanted for; one that is the same for several is made once.
    """

    wheels: tuple[Path, ...]
    checkouts: tuple[Path, ...]
    wishes: tuple[Wish, ...]


def make(sources: Sources, channel: Path, display: Display, indexing: Indexing) -> Changed:
    """Make packages and add them to a channel; the same wheel gives the same bytes.

    Args:
        sources: What they are made from.
        channel: The directory of the channel.
        display: Where progress is shown.
        indexing: How the index is written.

    Raises:
        MissingFileError: A wheel or checkout is not there.
        ArchiveError: A wheel is damaged, or cannot become a package.
        ProcessError: The build backend of a checkout failed.
        ChannelError: The channel has another archive of the same name.
    """
    with TemporaryDirectory(prefix="envtool-packages-") as name:
        scratch = Path(name)
        wheels = [*_existing(sources.wheels), *_built(sources.checkouts, scratch, display)]
        made = [path for wheel in wheels for path in _packed(wheel, sources.wishes, scratch, display)]
        return contents.add(channel, list(dict.fromkeys(made)), display, indexing)


def _existing(wheels: Sequence[Path]) -> Sequence[Path]:
    missing = [str(each) for each in wheels if not each.is_file()]
    if missing:
        raise MissingFileError(f"{', '.join(missing)}: not there", "pip download --no-deps NAME brings a wheel")
    return wheels


def _built(checkouts: Sequence[Path], scratch: Path, display: Display) -> Iterator[Path]:
    for number, root in enumerate(checkouts):
        if not (root / "pyproject.toml").is_file():
            raise MissingFileError(f"{root} has no pyproject.toml", "name the directory of a project")
        inputs = sorted(each.name for each in root.iterdir() if _is_input(each.name))
        copy, target = scratch / f"checkout-{number}", scratch / f"wheel-{number}"
        target.mkdir()
        with display.task(f"build the wheel of {root}"):
            checkout.snapshot(root, inputs, copy)
            yield checkout.build(copy, target)


def _is_input(name: str) -> bool:
    return name not in _NOT_INPUTS and (not name.startswith(".") or name in _KEPT_HIDDEN)


def _packed(wheel: Path, wishes: Sequence[Wish], scratch: Path, display: Display) -> Iterator[Path]:
    for wish in wishes:
        package = convert(wheel, wish)
        path = scratch / package.file_name
        if not path.exists():
            with display.task(f"pack {package.file_name}"):
                path.write_bytes(archive.pack(package))
        yield path
