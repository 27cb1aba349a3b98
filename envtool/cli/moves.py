"""`envtool why-not` and `outdated`: what a lock could have instead."""

from __future__ import annotations

from pathlib import Path

import click

from envtool import console
from envtool.cli.options import chosen_platform, file_option, json_option, platform_option
from envtool.inspect_lock import moves
from envtool.lockfile.conda_lock_v1 import read_lockfile
from envtool.solve import staleness
from envtool.solve.conflicts import explained
from envtool.solve.lock import opened_sources


@click.command("why-not")
@click.argument("spec")
@file_option
@platform_option
@json_option
@click.pass_context
def why_not(ctx: click.Context, spec: str, lockfile_path: Path, platform: str | None, as_json: bool) -> None:
    """Say why a lock cannot have SPEC, such as numpy=2.3: which lines of environment.yml are in the way.

    Exit code 1 when nothing is: then it states what would move.
    """
    old = read_lockfile(lockfile_path)
    request = staleness.request((), lockfile_path, old, {}, keeps_options=True)
    chosen = chosen_platform(old, platform)
    with opened_sources(request) as sources:
        reason, moved = moves.why_not(spec, old, request, chosen, sources)
    if as_json:
        console.answer_json(
            {"spec": spec, "fits": reason is None, "reason": reason, "moves": [str(each) for each in moved]}
        )
    elif reason is not None:
        console.answer(reason)
    else:
        for each in moved:
            console.answer(f"would move {each}")
        console.say(f"{spec} fits for {chosen}" + ("" if moved else ", and nothing would move"))
    ctx.exit(0 if reason is not None else 1)


@click.command("outdated")
@file_option
@platform_option
@json_option
def outdated(lockfile_path: Path, platform: str | None, as_json: bool) -> None:
    """Show the packages of a lock that have newer versions: those of environment.yml first.

    For each: what is locked, the newest that fits with all lines, the newest that there is, and what holds it back.
    Nothing is written; `envtool lock --upgrade` moves everything to what fits.
    """
    old = read_lockfile(lockfile_path)
    request = staleness.request((), lockfile_path, old, {}, keeps_options=True)
    chosen = chosen_platform(old, platform)
    with opened_sources(request) as sources, explained(request, sources):
        found = moves.outdated(old, request, chosen, sources)
    if as_json:
        console.answer_json([each._asdict() for each in found])
        return
    rows = [("package", "locked", "fits", "newest", "held by"), *(
        (f"{each.name} (pip)" if each.manager == "pip" else each.name, each.locked, each.fits or "-", each.newest,
         each.held_by or "")
        for each in found
    )]  # fmt: skip
    own = sum(each.is_own for each in found)
    for number, line in enumerate(console.table(rows) if found else ()):
        if number == own + 1 and own > 0:
            console.answer("")
        console.answer(line)
    console.say(f"{len(found)} of the packages for {chosen} have a newer version, {own} of them are asked for by name")
