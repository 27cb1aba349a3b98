"""`envtool audit`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from envtool import console
from envtool.atomic_files import write_atomically
from envtool.audit.audit import Audit, as_dict, as_sarif, audit, coverage, doubt, licenses, refused, sentence
from envtool.audit.osv import LEVELS
from envtool.cli import options
from envtool.inspect_lock.graph import graph
from envtool.lockfile.conda_lock_v1 import read_lockfile


@click.command("audit")
@options.file_option
@options.platform_option
@options.category_option
@click.option("--db", "database", type=options.PATH, help="A database in the OSV format: zip, directory or JSON.")
@click.option("--level", type=click.Choice(LEVELS), default="low", show_default=True,
              help="Count what is at least so severe; an unknown level counts.")  # fmt: skip
@click.option("--ignore", type=options.PATH, help="An OpenVEX file: what does not affect you, and until when.")
@click.option("--licenses", "shows_licenses", is_flag=True, help="List the licences too.")
@click.option("--allow-license", "allowed", multiple=True, metavar="SPDX", help="Only these licences. Repeatable.")
@click.option("--deny-license", "denied", multiple=True, metavar="SPDX", help="Not this licence. Repeatable.")
@click.option("--sarif", type=options.PATH, help="Also write what counts to this file, as SARIF.")
@options.json_option
@click.pass_context
def command(
    ctx: click.Context, lockfile_path: Path, platform: str | None, categories: tuple[str, ...], database: Path | None,
    level: str, ignore: Path | None, shows_licenses: bool, allowed: tuple[str, ...], denied: tuple[str, ...],
    sarif: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Look up known vulnerabilities and licences of a lock; no network is used.

    Wheels are looked up by their names in the package index, conda packages by the Python distributions that they
    bring. What the database cannot know is counted. docs/how-to/audit.md shows how to get a database. Exit code 1 when
    something counts.

    \b
    Examples:
      envtool audit --db osv-pypi.zip
      envtool audit --db osv-pypi.zip --level high --ignore vex.json --sarif audit.sarif
      envtool audit --deny-license GPL-3.0-only --deny-license AGPL-3.0-only
    """
    asks_licenses = bool(shows_licenses or allowed or denied)
    if database is None and not asks_licenses:
        raise click.UsageError("name a database with --db, or ask for licences")
    lockfile = read_lockfile(lockfile_path)
    chosen = options.chosen_platform(lockfile, platform)
    whole = graph(lockfile, chosen, options.chosen_categories(lockfile, categories))
    result = audit(whole, database, ignore) if database else Audit((), len(whole.packages), (), 0, "", None)
    stated = licenses(list(whole.packages.values())) if asks_licenses else {}
    result = replace(result, licenses=refused(stated, allowed, denied))
    failing = result.failing(level)
    if sarif:
        write_atomically(sarif, as_sarif(failing, str(lockfile_path)))
    if as_json:
        console.answer_json({**as_dict(result), "failing": len(failing), "all_licenses": stated})
        ctx.exit(1 if failing or result.licenses else 0)
    for each in result.found:
        console.answer(sentence(each))
    for name, license in stated.items() if shows_licenses else ():
        console.answer(f"{name}: {license or 'unknown'}")
    for name, license in result.licenses.items():
        console.answer(f"{name}: licence not allowed: {license}")
    if denied and (said := doubt(stated)):
        console.warn(said)
    if database:
        counted = [each for each in result.found if not each.ignored]
        console.say(f"{len(counted)} vulnerabilities, {len(result.found) - len(counted)} ignored; {coverage(result)}")
        if any(each.vulnerability.fixed for each in counted):
            console.say("hint: envtool lock --upgrade-package NAME --dry-run shows whether a fix is within reach")
    ctx.exit(1 if failing or result.licenses else 0)
