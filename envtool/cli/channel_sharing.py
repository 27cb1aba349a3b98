"""`envtool channel mirror`: channels for other machines."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envtool import report
from envtool.cli.channel_contents import key_option
from envtool.cli.options import json_option

if TYPE_CHECKING:
    from envtool.channel.place import Place


@click.command()
@click.argument("place", metavar="DIR|s3://BUCKET/PREFIX")
@click.option(
    "--lock", "lockfile_path", type=click.Path(path_type=Path), default=Path("conda-lock.yml"), show_default=True,
    help="The lockfile.",
)  # fmt: skip
@click.option("--public-url", metavar="URL", help="Where other machines find it.  [default: what the place is called]")
@key_option
@json_option
def mirror(place: str, lockfile_path: Path, public_url: str | None, key_file: Path | None, as_json: bool) -> None:
    """Make a channel that holds exactly what a lock needs, for all its platforms.

    Every archive and wheel is proven first. What is right already stays untouched, so that rsync moves what is new;
    what the lock does not need any more is removed. The answer is the variable that makes `envtool create` use it.

    \b
    Examples:
      envtool channel mirror --lock conda-lock.yml /srv/mirror
      envtool channel mirror s3://our-bucket/mirror
    """
    from envtool import directories
    from envtool.channel import mirror as mirror_module
    from envtool.fetch import Cache
    from envtool.lockfile import read_lockfile

    lockfile = read_lockfile(lockfile_path)
    with report.Display() as display:
        cache = Cache(directories.cache())
        made = mirror_module.mirror(lockfile, _place(place), cache, display, key_file=key_file)
    mirrors = made.mirrors
    if public_url:
        mirrors = {each: f"{public_url.rstrip('/')}/{url[len(made.url) :]}" for each, url in mirrors.items()}
    if as_json:
        report.answer_json({**asdict(made), "mirrors": mirrors})
        return
    report.say(f"{made.url}: {made.files} archives and wheels, {len(made.moved)} moved, {len(made.removed)} removed")
    pairs = " ".join(f"{canonical}={url}" for canonical, url in mirrors.items())
    report.answer(f"ENVTOOL_MIRRORS='{pairs}'")


def _place(name: str) -> Place:
    from envtool.channel.bucket import Bucket
    from envtool.channel.place import Directory

    return Bucket(name) if name.startswith("s3://") else Directory(Path(name))
