"""`envtool diff` and `merge-driver`: locks in git."""

from __future__ import annotations

from pathlib import Path

import click

from envtool import console, subprocesses
from envtool.cli import CommandGroup
from envtool.cli.options import PATH, file_option, json_option
from envtool.errors import EnvtoolError, MissingFileError, ProcessError
from envtool.inspect_lock.diff import as_markdown, as_table, compare, compare_versions, summary
from envtool.lockfile.conda_lock_v1 import Lockfile, format_lockfile, parse_lockfile, read_lockfile

_COMMAND = "envtool merge-driver merge %O %A %B %P"


@click.command("diff")
@click.argument("old", default="HEAD", metavar="[OLD]")
@click.argument("new", required=False, metavar="[NEW]")
@file_option
@click.option("--platform", "-p", "platforms", multiple=True, help="Only this platform. Repeatable.")
@click.option("--markdown", is_flag=True, help="Print a table for a pull request.")
@click.option("--exit-code", is_flag=True, help="Exit code 1 when they differ, as git diff does.")
@json_option
@click.pass_context
def diff(
    ctx: click.Context, old: str, new: str | None, lockfile_path: Path, platforms: tuple[str, ...], markdown: bool,
    exit_code: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show how two locks differ: what was added, removed, upgraded, downgraded or rebuilt.

    OLD and NEW are lockfiles or git revisions of one (HEAD~1, main, v1.0:conda-lock.yml). Without NEW it is the
    lockfile as it is now, without OLD the one of the last commit.

    \b
    Examples:
      envtool diff
      envtool diff HEAD~1
      envtool diff main --markdown
      envtool diff old-lock.yml new-lock.yml
    """
    before = _read_revision(old, lockfile_path)
    after = _read_revision(new, lockfile_path) if new else read_lockfile(lockfile_path)
    everywhere = sorted({*before.platforms, *after.platforms})
    shown = list(platforms) or everywhere
    differences = [each for each in compare(before, after, compare_versions) if set(each.platforms) & set(shown)]
    if as_json:
        console.answer_json([difference._asdict() for difference in differences])
    elif markdown:
        console.answer(as_markdown(differences, everywhere))
    else:
        if differences:
            console.answer(as_table(differences, everywhere))
        console.say(summary(differences))
    ctx.exit(1 if differences and exit_code else 0)


def _read_revision(text: str, default: Path) -> Lockfile:
    """The lock that a user means by a path, a git revision, or `REVISION:PATH`; a file comes before a revision."""
    if Path(text).exists():
        return read_lockfile(Path(text))
    revision, _, path = text.partition(":")
    file = Path(path) if path else default
    directory = file.parent if file.is_absolute() else Path.cwd() / file.parent
    try:
        # `./` makes git look from the directory that it runs in, not from the root of the repository.
        content = subprocesses.run(["git", "show", f"{revision}:./{file.name}"], cwd=directory)
    except (ProcessError, OSError) as error:
        reason = error.output.strip() if isinstance(error, ProcessError) else str(error)
        message = f"{text!r} is neither a file nor a git revision with {file.name}: {reason}"
        raise MissingFileError(message, "name a lockfile, a revision (HEAD~1), or REVISION:PATH") from error
    return parse_lockfile(f"{revision}:{file}", content)


@click.group("merge-driver", cls=CommandGroup)
def merge_driver() -> None:
    """Let git merge locks.

    Two branches that each add a package become a lock with both, and nothing else moves. No network is needed. What
    both branches have changed is a conflict, as before; envtool lock settles it.
    """


@merge_driver.command("install")
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
    for each in [f"{pattern} merge=envtool" for pattern in patterns or ("conda-lock.yml",)]:
        if each not in text.splitlines():
            text += ("" if not text or text.endswith("\n") else "\n") + each + "\n"
    attributes.write_text(text, encoding="utf-8")
    console.say(f"git merges locks with envtool now; commit {attributes.name}")


@merge_driver.command("merge", hidden=True)
@click.argument("base", type=PATH)
@click.argument("ours", type=PATH)
@click.argument("theirs", type=PATH)
@click.argument("path")
@click.pass_context
def merge(ctx: click.Context, base: Path, ours: Path, theirs: Path, path: str) -> None:
    """Put the merged lock into OURS, or exit with 1.

    Git calls it.
    """
    from envtool.inspect_lock.merge import merged  # brings what locks, which diff has no use for

    try:
        lockfile = merged(base, ours, theirs, path)
    except EnvtoolError as error:
        console.fail(error)
        console.say(f"{path} is as on our side: settle the sources, then envtool lock moves only what has to move")
        ctx.exit(1)
    ours.write_text(format_lockfile(lockfile), encoding="utf-8")
