"""`envtool channel add`, `index`, `check`, `remove`, `gc`: the contents of a channel."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from envtool import console
from envtool.channel import edit
from envtool.channel.edit import Changed
from envtool.cli.options import json_option

_path = click.Path(path_type=Path)
channel_argument = click.argument("channel", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
key_option = click.option("--key", "key_file", type=_path, metavar="PEM",
                          help="Sign the index with this private key (Ed25519).")  # fmt: skip


@click.command()
@channel_argument
@click.argument("files", type=_path, nargs=-1, required=True, metavar="FILE...")
@key_option
@json_option
def add(channel: Path, files: tuple[Path, ...], key_file: Path | None, as_json: bool) -> None:
    """Copy archives into a channel, and index it.

    What an archive holds is compared with what it states about itself first. An archive of the same name with another
    content is refused, since every cache knows an archive by its name. An archive that is damaged or contradicts itself
    is named and left out; the others are added, and the exit code is 3.
    """
    with console.ProgressDisplay() as display:
        changed = edit.add(channel, files, display, edit.Indexing(key_file=key_file))
    tell(changed, as_json=as_json)
    changed.require_all()


@click.command()
@channel_argument
@click.option("--shards/--no-shards", default=None, help="Write shards as well (CEP 16).  [default: if there are some]")
@key_option
@json_option
def index(channel: Path, shards: bool | None, key_file: Path | None, as_json: bool) -> None:
    """Write the index of a channel anew.

    It is repodata.json, repodata.json.zst, and shards on request.
    """
    with console.ProgressDisplay() as display:
        changed = edit.reindex(channel, display, edit.Indexing(shards, key_file))
    tell(changed, as_json=as_json)


@click.command()
@channel_argument
@json_option
def check(channel: Path, as_json: bool) -> int:
    """Check every archive of a channel.

    Each is compared with the index and with its own list of files; exit code 1 when something does not fit.
    """
    archives = edit.archives(channel)
    with console.ProgressDisplay() as display, display.task(f"check {len(archives)} archives", len(archives)) as task:
        issues = edit.check(channel, archives, task)
    if as_json:
        found = [{"place": each.place, "message": each.message} for each in issues]
        console.answer_json({"archives": len(archives), "issues": found})
    else:
        for each in issues:
            console.answer(str(each))
        console.say(f"{len(archives)} archives, {len(issues)} issues")
    return 1 if issues else 0


@click.command()
@channel_argument
@click.argument("patterns", nargs=-1, required=True, metavar="FILE...")
@key_option
@json_option
def remove(channel: Path, patterns: tuple[str, ...], key_file: Path | None, as_json: bool) -> None:
    """Remove archives from a channel, by file name.

    In FILE, * and ? stand for other characters.

    \b
    Example:
      envtool channel remove /srv/channel 'ourtool-1.0-*.conda'
    """
    with console.ProgressDisplay() as display:
        changed = edit.remove(channel, patterns, display, edit.Indexing(key_file=key_file))
    tell(changed, as_json=as_json)


@click.command()
@channel_argument
@click.option("--keep", type=click.IntRange(min=1), required=True, metavar="N", help="How many builds stay.")
@key_option
@json_option
def gc(channel: Path, keep: int, key_file: Path | None, as_json: bool) -> None:
    """Keep the N newest builds of every package in each subdir.

    The others are removed. Locks that name one of them can no longer be created from this channel.
    """
    with console.ProgressDisplay() as display:
        changed = edit.collect(channel, keep, display, edit.Indexing(key_file=key_file))
    tell(changed, as_json=as_json)


def tell(changed: Changed, *, as_json: bool) -> None:
    """Say what was changed in a channel."""
    if as_json:
        console.answer_json(asdict(changed))
        return
    for name in changed.added:
        console.say(f"added {name}")
    for name in changed.removed:
        console.say(f"removed {name}")
    console.say(f"{changed.kept} archives are in the channel")
