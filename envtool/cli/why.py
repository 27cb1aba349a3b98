"""`envtool why`."""

from __future__ import annotations

from pathlib import Path

import click

from envtool import console
from envtool.cli.options import (
    category_option,
    chosen_categories,
    chosen_platform,
    file_option,
    json_option,
    platform_option,
)
from envtool.inspect_lock.graph import graph
from envtool.lockfile.conda_lock_v1 import read_lockfile


@click.command("why")
@click.argument("package")
@file_option
@platform_option
@category_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, package: str, lockfile_path: Path, platform: str | None, categories: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Say why PACKAGE is in a lock: from each line of environment.yml that leads to it, the shortest way.

    Exit code 1 when it is not in the lock.
    """
    lockfile = read_lockfile(lockfile_path)
    chosen = chosen_platform(lockfile, platform)
    whole = graph(lockfile, chosen, chosen_categories(lockfile, categories))
    key = whole.find(package)
    if key is None:
        console.say(f"{package} is not in the lock for {chosen}")
        ctx.exit(1)
    chains = whole.chains(key)
    locked = whole.packages[key]
    if as_json:
        found = [[name for _, name in chain] for chain in chains]
        console.answer_json(
            {"name": locked.name, "version": locked.version, "requested": whole.requested.get(key), "chains": found}
        )
        return
    for chain in chains:
        steps = [f"{whole.requested[chain[0]]} (asked for)"]
        for needing, needed in zip(chain, chain[1:]):
            constraint = whole.constraint(needing, needed)
            steps.append(f"{needed[1]} {constraint}".rstrip())
        console.answer(" → ".join(steps))
    console.say(f"{locked.name} {locked.version} is in the lock for {chosen} because of {len(chains)} of the lines")
