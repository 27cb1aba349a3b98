"""`envtool merge-driver`."""

from __future__ import annotations

from pathlib import Path

import click

from envtool import console, subprocesses
from envtool.cli.groups import CommandGroup
from envtool.cli.options import PATH
from envtool.errors import EnvtoolError
from envtool.inspect_lock.merge import merged
from envtool.lockfile.conda_lock_v1 import format_lockfile

_ATTRIBUTE = "conda-lock.yml merge=envtool"
_COMMAND = "envtool merge-driver merge %O %A %B %P"


@click.group("merge-driver", cls=CommandGroup)
def command() -> None:
    """Let git merge locks.

    Two branches that each add a package become a lock with both, and nothing else moves. No network is needed. What
    both branches have changed is a conflict, as before; envtool lock settles it.
    """


@command.command("install")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
def install(patterns: tuple[str, ...]) -> None:
    """Set up the repository of this directory.

    The driver is named in .git/config and in .gitattributes, for conda-lock.yml or for every PATTERN. .gitattributes is
    to be committed; .git/config is this clone's own, so that everyone runs this once.
    """
    root = Path(subprocesses.run(["git", "rev-parse", "--show-toplevel"], hint="run it in a git repository").strip())
    subprocesses.run(["git", "config", "merge.envtool.name", "conda-lock.yml, package by package"], cwd=root)
    subprocesses.run(["git", "config", "merge.envtool.driver", _COMMAND], cwd=root)
    attributes = root / ".gitattributes"
    text = attributes.read_text(encoding="utf-8") if attributes.exists() else ""
    for each in [f"{pattern} merge=envtool" for pattern in patterns] or [_ATTRIBUTE]:
        if each not in text.splitlines():
            text += ("" if not text or text.endswith("\n") else "\n") + each + "\n"
    attributes.write_text(text, encoding="utf-8")
    console.say(f"git merges locks with envtool now; commit {attributes.name}")


@command.command("merge", hidden=True)
@click.argument("base", type=PATH)
@click.argument("ours", type=PATH)
@click.argument("theirs", type=PATH)
@click.argument("path")
@click.pass_context
def merge_command(ctx: click.Context, base: Path, ours: Path, theirs: Path, path: str) -> None:
    """Put the merged lock into OURS, or exit with 1.

    Git calls it.
    """
    try:
        lockfile = merged(base, ours, theirs, path)
    except EnvtoolError as error:
        console.fail(error)
        console.say(f"{path} is as on our side: settle the sources, then envtool lock moves only what has to move")
        ctx.exit(1)
    ours.write_text(format_lockfile(lockfile), encoding="utf-8")
