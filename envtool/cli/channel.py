"""`envtool channel`: channels of your own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from envtool import console, paths
from envtool.channel.edit import Indexing, make
from envtool.channel.python_recipe.build import build as build_channel
from envtool.cli import channel_contents, channel_sharing
from envtool.cli.groups import CommandGroup
from envtool.cli.init import pair
from envtool.cli.options import json_option
from envtool.fetch.archive_cache import Cache
from envtool.wheels import to_conda

_file = click.Path(path_type=Path, dir_okay=False)
_directory = click.Path(path_type=Path, file_okay=False, exists=True)


@click.group("channel", cls=CommandGroup)
def command() -> None:
    """Make conda channels of your own.

    A channel is a directory, or a place on a web server, that conda, mamba, pixi and envtool install packages from.
    """


for _each in (
    channel_contents.add, channel_contents.index, channel_contents.check, channel_contents.remove, channel_contents.gc,
    channel_sharing.mirror, channel_sharing.serve,
):  # fmt: skip
    command.add_command(_each)


@command.command()
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="The channel's directory.  [default: channel/ in envtool's cache]")  # fmt: skip
@click.option("--debian-mirror", "debian_mirrors", multiple=True, metavar="URL", envvar="ENVTOOL_DEBIAN_MIRRORS",
    help="A mirror site that has debian/ and debian-security/, tried when the places that apt is configured for on "
    "this machine fail. May be given several times; ENVTOOL_DEBIAN_MIRRORS takes a list separated by spaces.",
)  # fmt: skip
@click.option("--wheel", "wheels", type=_file, multiple=True, metavar="FILE",
              help="Make a package of this wheel, in place of recipes. Repeatable.")  # fmt: skip
@click.option("--checkout", "checkouts", type=_directory, multiple=True, metavar="DIR",
              help="Make a package of this project, through its own pyproject.toml. Repeatable.")  # fmt: skip
@click.option("--python", "pythons", multiple=True, metavar="X.Y",
              help="The Python that packages are for, where a wheel runs on several. Repeatable.")  # fmt: skip
@click.option("--platform", help="The platform that packages are for, where wheels run on several.")
@click.option("--rename", "renames", multiple=True, metavar="NAME=CONDA",
              help="A distribution that has another name on conda: torch=pytorch. Repeatable.")  # fmt: skip
@click.option("--build-number", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of packages made from wheels and checkouts; the higher wins.")  # fmt: skip
@channel_contents.key_option
@json_option
def build(
    recipes: tuple[str, ...], output: Path | None, debian_mirrors: tuple[str, ...], wheels: tuple[Path, ...],
    checkouts: tuple[Path, ...], pythons: tuple[str, ...], platform: str | None, renames: tuple[str, ...],
    build_number: int, key_file: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Build the embedded channel, or packages of your own.

    The embedded channel is for machines that reach no conda channel. It holds Python 3.9, pip and envserve itself, made
    from files that their recipes pin by sha256: Debian's packages, one wheel, and this checkout. No root access,
    compiler or conda is needed. What is there already and has not changed is left as it is, so that a second run takes
    a moment. Without RECIPE all of them are built.

    The channel's URL is printed; put it into an environment.yml:

    \b
      channels:
        - file:///home/me/.cache/envtool/channel

    With --wheel or --checkout, packages of these are added to the channel instead. A wheel of Python only becomes
    noarch; a compiled one, a package for its platform and Python. What it needs becomes match specs.

    \b
    Examples:
      envtool channel build --checkout . --output /srv/channel
      envtool channel build --wheel ext-1.0-cp39-cp39-manylinux_2_28_x86_64.whl --output /srv/channel
    """
    place = (output or paths.cache() / "channel").absolute()
    if not (wheels or checkouts):
        _build_recipes(recipes, place, debian_mirrors, key_file, as_json=as_json)
    elif recipes:
        raise click.UsageError("RECIPE does not go with --wheel and --checkout")
    else:
        names = dict(pair(each) for each in renames)
        wishes = tuple(
            to_conda.ConversionOptions(python, platform, names, build_number) for python in pythons or (None,)
        )
        with console.ProgressDisplay() as display:
            changed = make(wheels, checkouts, wishes, place, display, Indexing(key_file=key_file))
        channel_contents.tell(changed, as_json=as_json)


def _build_recipes(
    recipes: tuple[str, ...], place: Path, debian_mirrors: tuple[str, ...], key_file: Path | None, *, as_json: bool
) -> None:
    if key_file:
        raise click.UsageError(
            "--key goes with --wheel and --checkout; after recipes, envtool channel index DIR --key PEM"
        )
    with console.ProgressDisplay() as display:
        made = build_channel(recipes, place, cache=Cache(paths.cache()), display=display, debian_mirrors=debian_mirrors)
    for name, reason in made.left_out:
        console.warn(f"{name} is left out: {reason}")
    if as_json:
        packages = [asdict(each) for each in made.packages]
        console.answer_json({"url": made.url, "packages": packages, "left_out": dict(made.left_out)})
        return
    for each in made.packages:
        state = "built" if each.was_built else "up to date"
        console.say(f"{each.name} {each.version} {each.build}: {state}, {console.size(each.size_bytes)}")
    console.answer(made.url)
