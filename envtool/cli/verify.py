"""`envtool verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envtool.cli.options import file_option, json_option, name_option, prefix_option

if TYPE_CHECKING:
    from envtool.prefixes.prefix import Prefix
    from envtool.prefixes.verify import VerifyReport

_SHOWN = 40


@click.command("verify", short_help="Prove that an environment is exactly what its lock says.")
@name_option
@prefix_option
@file_option
@click.option(
    "--rebuild", is_flag=True, help="Make the lock a second time elsewhere, and compare the two file by file."
)
@click.option("--junit", type=click.Path(path_type=Path), help="Also write the findings to this file, as JUnit XML.")
@click.option("--github", is_flag=True, help="Print the findings as annotations for GitHub Actions.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    name: str | None,
    path: Path | None,
    lockfile_path: Path,
    rebuild: bool,
    junit: Path | None,
    github: bool,
    as_json: bool,
) -> None:
    """Prove that an environment is exactly what its lock says.

    Every file is read and compared with what the lock's archives and wheels hold, files that no package brings
    included. Exit code 0 when nothing differs, 1 with the findings otherwise: extra, missing or mismatched.

    Byte-code and scripts are made while installing and stand in no archive; they are compared with what `create` made.
    With --rebuild they are compared with a second environment, made from the lock in a temporary directory: the
    reproducibility check for CI.
    """
    from envtool import directories, report
    from envtool.fetching.cache import Cache
    from envtool.locking.completion import read_complete
    from envtool.prefixes.prefix import find_prefix
    from envtool.prefixes.verify import verify

    prefix = find_prefix(name, path)
    lockfile = read_complete(lockfile_path)
    receipt = prefix.require_whole()
    locked = lockfile.select(receipt.platform, receipt.categories)
    cache = Cache(directories.cache())
    with report.Display() as display:
        result = verify(prefix, locked, cache, display)
        if rebuild:
            from envtool.prefixes.rebuild import compare_with_rebuilt

            result = compare_with_rebuilt(prefix, lockfile, result, cache, display)
    _tell(prefix, result, junit, is_github=github, as_json=as_json)
    ctx.exit(0 if result.is_equal else 1)


def _tell(prefix: Prefix, result: VerifyReport, junit: Path | None, *, is_github: bool, as_json: bool) -> None:
    from envtool import report
    from envtool.files import write_atomically
    from envtool.prefixes.findings import as_github, as_junit, as_text

    if junit:
        write_atomically(junit, as_junit(result.findings, str(prefix.path), result.file_count))
    if as_json:
        report.answer_json({**asdict(result), "prefix": str(prefix.path), "is_equal": result.is_equal})
        return
    if result.findings:
        report.answer(as_github(result.findings, str(prefix.path)) if is_github else as_text(result.findings, _SHOWN))
    verdict = "exactly what the lock says" if result.is_equal else f"{len(result.findings)} findings"
    report.say(f"{result.file_count} files, {report.size(result.size_bytes)}: {verdict}")
    report.say(f"env digest {result.env_digest}")
