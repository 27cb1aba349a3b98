"""`envtool mirror`: presets, measurement and use of mirrors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import click

from envtool import console
from envtool import paths as directories
from envtool.cli import CommandGroup
from envtool.cli.options import PATH, json_option
from envtool.fetch.archive_cache import Cache
from envtool.fetch.credentials import without_credentials, without_secrets
from envtool.lockfile.conda_lock_v1 import read_lockfile
from envtool.mirrors import configure, mirrors, selection
from envtool.mirrors.mirrors import Preset, presets
from envtool.mirrors.selection import ORIGIN, Reading


@click.group("mirror", cls=CommandGroup)
def command() -> None:
    """Find, measure and use mirrors of conda channels and wheels.

    A lock always names the canonical places; a mirror is a matter of the machine. Whatever mirror the bytes come from,
    they are hashed before they are used.
    """


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show every preset, its channels, and which are in use."""
    used = mirrors.used()
    known = presets()
    if as_json:
        rows = {
            name: {
                "title": each.title, "pypi": without_credentials(each.pypi) if each.pypi else None,
                "channels": {origin: without_credentials(url) for origin, url in each.channels.items()},
                "notes": list(each.notes),
            }
            for name, each in known.items()
        }  # fmt: skip
        console.answer_json({"use": list(used), "presets": rows})
        return
    for name, each in known.items():
        mark = "  (in use)" if name in used else ""
        console.answer(f"{name}: {each.title}{mark}")
        for origin, url in each.channels.items():
            label = "/".join(urlsplit(origin).path.strip("/").split("/")[-2:])
            console.answer(f"  {label:12} {without_credentials(url)}")
        if each.pypi:
            console.answer(f"  {'wheels':12} {without_credentials(each.pypi)}")
        for note in each.notes:
            console.answer(f"  {note}")
    console.say(f"in use: {', '.join(used) or 'none'}")


@command.command()
@click.option("-f", "--file", "lockfile_path", type=PATH, default=Path("conda-lock.yml"),
              show_default=True, help="The lockfile whose channels are measured.")  # fmt: skip
@click.option("--limit", "limit_s", type=click.FloatRange(min=0.1), default=10.0, show_default=True, metavar="SECONDS",
              help="When to stop; who has not answered by then counts as silent.")  # fmt: skip
@json_option
def probe(lockfile_path: Path, limit_s: float, as_json: bool) -> None:
    """Measure every mirror for the channels that a lock needs.

    For each channel the mirror's repodata and the beginning of one archive of the lock are asked for, from all mirrors
    at once. The result is kept for a day; `envtool create` goes by it after `envtool mirror use auto`. Exit code 1 when
    a channel is available from nowhere.
    """
    urls = [package.url for package in read_lockfile(lockfile_path).packages]
    places = selection.candidates(urls, list(presets().values()))
    with console.ProgressDisplay() as display, display.task(f"measure {len(places)} places"):
        readings = selection.measure(places, limit_s)
    selection.keep(Cache(directories.cache()), readings)
    ranked = selection.rank(readings)
    if as_json:
        shown = {
            name: [{**o._asdict(), "base": without_credentials(o.base), "estimate_s": o.estimate_s} for o in found]
            for name, found in selection.by_channel(readings).items()
        }
        console.answer_json({"channels": shown})
    else:
        _table(selection.by_channel(readings))
    missing = {reading.channel for reading in readings} - set(ranked)
    if missing:
        click.get_current_context().exit(1)


@command.command()
@click.argument("names", nargs=-1, metavar="[NAME...|auto|off]")
@click.option("--conda", "conda", is_flag=True, help="Write the mirror into .condarc as well.")
@click.option("--pip", "pip", is_flag=True, help="Write its package index into pip.conf as well.")
@click.option("--uv", "uv", is_flag=True, help="Write its package index into uv.toml as well.")
@click.option("--dry-run", is_flag=True, help="Show what would change, as a diff, and change nothing.")
@click.option("--undo", is_flag=True, help="Take the last change back, byte for byte.")
@json_option
def use(names: tuple[str, ...], conda: bool, pip: bool, uv: bool, dry_run: bool, undo: bool, as_json: bool) -> None:
    """Use mirrors: NAME, auto (by measurement) or off.

    Several names are tried in their order. The choice is written to config.toml in envtool's home, and on request to
    the files of conda, pip and uv; whatever else stands there stays, comments included.

    \b
    Example:
      envtool mirror use tuna --conda --pip --dry-run
      envtool mirror use --undo
    """
    if undo == bool(names):
        raise click.UsageError("give a NAME, auto or off; or --undo alone")
    if undo:
        _done("took back", configure.undo(configure.journal()), as_json=as_json)
        return
    tools = [tool for tool, is_wanted in zip(configure.TOOLS, (conda, pip, uv)) if is_wanted]
    known = presets()
    planned = configure.plan(names, tools, known, _best(known) if tools else None)
    if dry_run:
        console.answer(configure.diff(planned) or "nothing to change")
        return
    _done("wrote", configure.apply(planned, configure.journal()), as_json=as_json)


def _best(known: dict[str, Preset]) -> Preset | None:
    readings = selection.recall(Cache(directories.cache()))
    usable = [each for each in readings if each.estimate_s is not None and each.name != ORIGIN and each.name in known]
    # The one that serves most of what was measured, and of those the quickest.
    names = {each.name for each in usable}
    estimates = {name: [each.estimate_s or 0.0 for each in usable if each.name == name] for name in names}
    best = min(names, key=lambda name: (-len(estimates[name]), sum(estimates[name])), default=None)
    return known[best] if best else None


def _done(verb: str, paths: Sequence[Path], *, as_json: bool) -> None:
    if as_json:
        console.answer_json({"changed": [str(each) for each in paths]})
    elif not paths:
        console.say("nothing to change")
    for path in paths:
        console.say(f"{verb} {path}")


def _table(channels: Mapping[str, Sequence[Reading]]) -> None:
    for channel, readings in channels.items():
        console.answer(without_credentials(channel))
        for reading in readings:
            latency = "-" if reading.latency_s is None else f"{reading.latency_s * 1000:.0f} ms"
            rate = "-" if not reading.bytes_per_s else f"{console.size(reading.bytes_per_s)}/s"
            console.answer(f"  {reading.name:10} {latency:>9} {rate:>14}  {_note(reading)}".rstrip())


def _note(reading: Reading) -> str:
    if reading.reason:
        return without_secrets(reading.reason)
    host = urlsplit(reading.base).netloc.rpartition("@")[2]
    return f"sends on to {reading.served_by}" if reading.served_by not in (None, host) else ""
