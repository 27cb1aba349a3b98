"""`envtool channel`: channels of one's own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from envtool import report
from envtool.cli import channel_contents, channel_sharing
from envtool.cli.options import json_option


@click.group("channel")
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
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The channel's directory.  [default: channel/ in envtool's cache]",
)
@click.option(
    "--debian-mirror",
    "debian_mirrors",
    multiple=True,
    metavar="URL",
    envvar="ENVTOOL_DEBIAN_MIRRORS",
    help="A mirror site that has debian/ and debian-security/, tried when the places that apt is configured for on "
    "this machine fail. May be given several times; ENVTOOL_DEBIAN_MIRRORS takes a list separated by spaces.",
)
@json_option
def build(recipes: tuple[str, ...], output: Path | None, debian_mirrors: tuple[str, ...], as_json: bool) -> None:
    """Build the embedded channel, for machines that reach no conda channel.

    It holds Python 3.9, pip and envserve itself, made from files that their recipes pin by sha256: Debian's packages,
    one wheel, and this checkout. No root, no compiler and no conda are needed. What is there already and has not
    changed is left as it is, so that a second run takes a moment. Without RECIPE all of them are built.

    The channel's URL is printed; put it into an environment.yml:

    \b
      channels:
        - file:///home/me/.cache/envtool/channel
    """
    from envtool import directories
    from envtool.channel.build import build as build_channel
    from envtool.fetch import Cache

    place = (output or directories.cache() / "channel").absolute()
    with report.Display() as display:
        made = build_channel(
            recipes,
            place,
            cache=Cache(directories.cache()),
            display=display,
            debian_mirrors=debian_mirrors,
        )
    for name, reason in made.left_out:
        report.warn(f"{name} is left out: {reason}")
    if as_json:
        packages = [asdict(each) for each in made.packages]
        report.answer_json({"url": made.url, "packages": packages, "left_out": dict(made.left_out)})
        return
    for each in made.packages:
        state = "built" if each.was_built else "up to date"
        report.say(f"{each.name} {each.version} {each.build}: {state}, {report.size(each.size_bytes)}")
    report.answer(made.url)
