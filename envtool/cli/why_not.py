"""`envtool why-not`."""

from __future__ import annotations

from pathlib import Path

import click

from envtool import console
from envtool.cli.options import chosen_platform, file_option, json_option, platform_option
from envtool.inspect_lock.moves import why_not
from envtool.lockfile.conda_lock_v1 import read_lockfile
from envtool.solve import staleness
from envtool.solve.lock import opened_sources


@click.command("why-not")
@click.argument("spec")
@file_option
@platform_option
@json_option
@click.pass_context
def command(ctx: click.Context, spec: str, lockfile_path: Path, platform: str | None, as_json: bool) -> None:
    """Say why a lock cannot have SPEC, such as numpy=2.3: which lines of environment.yml are in the way.

    Exit code 1 when nothing is: then it states what would move.
    """
    old = read_lockfile(lockfile_path)
    request = staleness.request((), lockfile_path, old, {}, keeps_options=True)
    chosen = chosen_platform(old, platform)
    with opened_sources(request) as sources:
        reason, moves = why_not(spec, old, request, chosen, sources)
    if as_json:
        moved = [str(each) for each in moves]
        console.answer_json({"spec": spec, "fits": reason is None, "reason": reason, "moves": moved})
    elif reason is not None:
        console.answer(reason)
    else:
        for each in moves:
            console.answer(f"would move {each}")
        console.say(f"{spec} fits for {chosen}" + ("" if moves else ", and nothing would move"))
    ctx.exit(0 if reason is not None else 1)
