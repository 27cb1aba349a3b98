"""`envtool create`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from envtool.cli.options import file_option, json_option, name_option, prefix_option, this_platform

if TYPE_CHECKING:
    from envtool.create import Outcome
    from envtool.prefix import Prefix


@click.command("create", short_help="Make an environment equal to a lock.")
@name_option
@prefix_option
@file_option
@click.option(
    "--category",
    "categories",
    multiple=True,
    default=("main",),
    show_default=True,
    help="Install this category. Repeatable.",
)
@click.option("--force", is_flag=True, help="Make everything anew, even if nothing seems to have changed.")
@json_option
def command(
    name: str | None, path: Path | None, lockfile_path: Path, categories: tuple[str, ...], force: bool, as_json: bool
) -> None:
    """Make an environment equal to a lock.

    Every archive and wheel is hashed before anything in the environment is touched. What is missing is installed, what
    is extra is removed, and nothing is done when the environment is the lock's already. A create that was stopped goes
    on when it is run again.
    """
    from envtool import directories, report
    from envtool.create import create
    from envtool.fetch import Cache
    from envtool.lockfile import read_lockfile
    from envtool.prefix import find_prefix

    prefix = find_prefix(name, path)
    lockfile = read_lockfile(lockfile_path)
    with report.Display() as display:
        outcome = create(
            lockfile, prefix, this_platform(), categories, Cache(directories.cache()), display,
            command=shlex.join(["envtool", *sys.argv[1:]]), starts_over=force,
        )  # fmt: skip
    if as_json:
        report.answer_json(_as_dict(prefix, outcome))
    else:
        _say(prefix, outcome)


def _as_dict(prefix: Prefix, outcome: Outcome) -> dict[str, Any]:
    return {
        "prefix": str(prefix.path),
        "env_digest": outcome.receipt.env_digest,
        "changed": not outcome.plan.is_empty,
        "installed": [f"{each.name}=={each.version}" for each in outcome.plan.install],
        "removed": [f"{each.name}=={each.version}" for each in outcome.plan.remove],
    }


def _say(prefix: Prefix, outcome: Outcome) -> None:
    from envtool import report

    if outcome.plan.is_empty:
        report.say(f"nothing to do: {prefix.path} is the lock's already")
    else:
        report.say(f"made {prefix.path}: {len(outcome.plan.install)} installed, {len(outcome.plan.remove)} removed")
    report.say(f"env digest {outcome.receipt.env_digest}")
