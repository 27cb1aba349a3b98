"""`envtool outdated`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from envtool import console
from envtool.cli.options import chosen_platform, file_option, json_option, platform_option
from envtool.inspect_lock.moves import outdated
from envtool.lockfile.conda_lock_v1 import read_lockfile
from envtool.solve import staleness
from envtool.solve.conflicts import explained
from envtool.solve.lock import opened_sources


@click.command("outdated")
@file_option
@platform_option
@json_option
def command(lockfile_path: Path, platform: str | None, as_json: bool) -> None:
    """Show the packages of a lock that have newer versions: those of environment.yml first.

    For each: what is locked, the newest that fits with all lines, the newest that there is, and what holds it back.
    Nothing is written; `envtool lock --upgrade` moves everything to what fits.
    """
    old = read_lockfile(lockfile_path)
    request = staleness.request((), lockfile_path, old, {}, keeps_options=True)
    chosen = chosen_platform(old, platform)
    with opened_sources(request) as sources, explained(request, sources):
        found = outdated(old, request, chosen, sources)
    if as_json:
        console.answer_json([asdict(each) for each in found])
        return
    rows = [("package", "locked", "fits", "newest", "held by"), *(
        (f"{each.name} (pip)" if each.manager == "pip" else each.name, each.locked, each.fits or "-", each.newest,
         each.held_by or "")
        for each in found
    )]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    own = sum(each.is_own for each in found)
    for number, row in enumerate(rows if found else ()):
        if number == own + 1 and own > 0:
            console.answer("")
        console.answer("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[4]]).rstrip())
    console.say(f"{len(found)} of the packages for {chosen} have a newer version, {own} of them are asked for by name")
