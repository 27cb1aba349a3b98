"""`envtool diff`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from envtool import console, subprocesses
from envtool.cli.options import file_option, json_option
from envtool.errors import MissingFileError, ProcessError
from envtool.inspect_lock.diff import as_markdown, as_table, compare, compare_versions, summary
from envtool.lockfile.conda_lock_v1 import Lockfile, parse_lockfile, read_lockfile


@click.command("diff")
@click.argument("old", default="HEAD", metavar="[OLD]")
@click.argument("new", required=False, metavar="[NEW]")
@file_option
@click.option("--platform", "-p", "platforms", multiple=True, help="Only this platform. Repeatable.")
@click.option("--markdown", is_flag=True, help="Print a table for a pull request.")
@click.option("--exit-code", is_flag=True, help="Exit code 1 when they differ, as git diff does.")
@json_option
@click.pass_context
def command(
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
        console.answer_json([asdict(each) for each in differences])
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
