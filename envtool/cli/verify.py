"""`envtool verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from envtool.cli.options import file_option, json_option, name_option, prefix_option


@click.command("verify", short_help="Prove that an environment is exactly what its lock says.")
@name_option
@prefix_option
@file_option
@json_option
@click.pass_context
def command(ctx: click.Context, name: str | None, path: Path | None, lockfile_path: Path, as_json: bool) -> None:
    """Prove that an environment is exactly what its lock says.

    Every file is read and compared, files that no package brings included. Exit code 0 when nothing differs, 1 with the
    findings otherwise: extra, missing or mismatched.
    """
    from envtool import directories, report
    from envtool.fetch import Cache
    from envtool.lockfile import read_lockfile
    from envtool.prefix import find_prefix
    from envtool.verify import verify

    prefix = find_prefix(name, path)
    lockfile = read_lockfile(lockfile_path)
    receipt = prefix.require_whole()
    locked = lockfile.select(receipt.platform, receipt.categories)
    with report.Display() as display:
        result = verify(prefix, locked, Cache(directories.cache()), display)
    if as_json:
        report.answer_json({**asdict(result), "prefix": str(prefix.path), "is_equal": result.is_equal})
    else:
        for finding in result.findings:
            report.answer(f"{finding.kind:10}  {finding.what}  ({finding.detail})")
        verdict = "exactly what the lock says" if result.is_equal else f"{len(result.findings)} findings"
        report.say(f"{result.file_count} files, {report.size(result.size_bytes)}: {verdict}")
        report.say(f"env digest {result.env_digest}")
    ctx.exit(0 if result.is_equal else 1)
