"""`envtool ci`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from envtool import console, paths, policy
from envtool.atomic_files import write_atomically
from envtool.audit.osv import LEVELS
from envtool.ci import Job, as_annotations, as_dict, as_markdown, run
from envtool.cli import options
from envtool.fetch.archive_cache import Cache
from envtool.install.request import Request
from envtool.prefix.prefix import Prefix
from envtool.solve import staleness
from envtool.solve.md5_completion import read_complete


@click.command("ci")
@options.file_option
@click.option("--source", "sources", type=options.PATH, multiple=True, metavar="FILE",
              help="What the lock was made from. Repeatable.  [default: the sources that the lock names]")  # fmt: skip
@click.option("-p", "--prefix", "path", type=options.PATH, default=Path(".envtool-ci/env"),
              show_default=True, help="Where the environment is made; kept for the steps that follow.")  # fmt: skip
@options.machine_platform_option
@options.installed_category_option
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=Path("envtool-ci"),
              show_default=True, help="The directory for summary.md, sbom.json and verify.xml.")  # fmt: skip
@click.option("--no-rebuild", is_flag=True, help="Do not make the environment a second time.")
@click.option("--db", "database", type=options.PATH, help="Also audit the lock with this OSV database.")
@click.option("--ignore", type=options.PATH, help="For --db: an OpenVEX file of what does not affect you.")
@click.option(
    "--level", type=click.Choice(LEVELS), default="low", show_default=True, help="For --db: the least that counts."
)
@options.json_option
@click.pass_context
def command(
    ctx: click.Context, lockfile_path: Path, sources: tuple[Path, ...], path: Path, platform: str | None,
    categories: tuple[str, ...], output: Path, no_rebuild: bool,
    database: Path | None, ignore: Path | None, level: str, as_json: bool,
) -> None:  # fmt: skip
    """Check in CI that a lock is fresh, available and reproducible.

    The lock is compared with its sources; the environment is made from it with the cache, every file verified, and made
    a second time and compared; a bill of materials and one summary in Markdown are written. On GitHub the summary also
    appears on the page of the run, and what failed as annotations.

    \b
    Exit codes:
      0   all is well
      10  stale: the lock is not what its sources ask for
      11  unreachable: a package could not be downloaded; run it again
      12  irreproducible: other bytes than those that were locked, or other files the second time
      13  vulnerable: a package has a known vulnerability (with --db)
      3   something else, with a hint
    """
    lockfile = read_complete(lockfile_path)
    request = Request(
        lockfile, platform or options.this_platform(), categories, options.command_line(), repairs=True, is_listed=False
    )
    policy.require(request, lockfile_path)
    name = lockfile_path.absolute().parent.name
    fresh = staleness.request(sources, lockfile_path, lockfile, {})
    output.mkdir(parents=True, exist_ok=True)
    job = Job(fresh, lockfile, request, Prefix(path), output, not no_rebuild, name, database, ignore, level)
    with console.ProgressDisplay() as display:
        result = run(job, Cache(paths.cache()), display)
    if result.env_digest:
        policy.require(request, lockfile_path, result.env_digest)
    page = as_markdown(result, str(lockfile_path))
    write_atomically(output / "summary.md", page)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:  # other steps write there as well
            file.write(page)
    if as_json:
        console.answer_json(as_dict(result))
    else:
        console.answer(page.rstrip("\n"))
        for line in as_annotations(result) if os.environ.get("GITHUB_ACTIONS") == "true" else ():
            console.answer(line)
    ctx.exit(result.verdict.exit_code)
