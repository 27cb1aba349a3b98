"""`envtool verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from envtool import console, paths
from envtool.atomic_files import write_atomically
from envtool.cli.options import (
    attest_key_option,
    attest_option,
    file_option,
    json_option,
    made_for_option,
    name_option,
    prefix_option,
    require_attest_key,
)
from envtool.fetch.archive_cache import Cache
from envtool.install.rebuild import compare_with_rebuilt
from envtool.prefix.prefix import Prefix, find_prefix
from envtool.signing import attestation
from envtool.solve.md5_completion import read_complete
from envtool.verify import VerifyReport, as_github, as_junit, as_text, verify

_SHOWN = 40


@click.command("verify")
@name_option
@prefix_option
@made_for_option
@file_option
@click.option("--rebuild", is_flag=True,
              help="Make the lock a second time elsewhere, and compare the two file by file.")  # fmt: skip
@click.option("--junit", type=click.Path(path_type=Path), help="Also write the findings to this file, as JUnit XML.")
@click.option("--github", is_flag=True, help="Print the findings as annotations for GitHub Actions.")
@attest_option
@attest_key_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, name: str | None, path: Path | None, made_for: Path | None, lockfile_path: Path, rebuild: bool,
    junit: Path | None, github: bool, attest: Path | None, attest_key: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Prove that an environment is exactly what its lock states.

    Every file is read and compared with what the lock's archives and wheels hold, files that no package brings
    included. Exit code 0 when nothing differs, 1 with the findings otherwise: extra, missing or mismatched.

    Byte-code and scripts are made while installing and are in no archive; they are compared with what `create` made.
    With --rebuild they are compared with a second environment, made from the lock in a temporary directory: the
    reproducibility check for CI.
    """
    require_attest_key(attest, attest_key)
    prefix = find_prefix(name, path, made_for)
    lockfile = read_complete(lockfile_path)
    receipt = prefix.require_whole()
    locked = lockfile.select(receipt.platform, receipt.categories)
    cache = Cache(paths.cache())
    with console.ProgressDisplay() as display:
        result = verify(prefix, locked, cache, display)
        if rebuild:
            result = compare_with_rebuilt(prefix, lockfile, result, cache, display)
    if attest and attest_key:
        verdict = {"is_equal": result.is_equal, "findings": len(result.findings), "files": result.file_count,
                   "rebuilt": rebuild}  # fmt: skip
        attestation.write(
            attest, attestation.environment(result.env_digest, lockfile_path, locked, verdict), attest_key
        )
    _tell(prefix, result, junit, is_github=github, as_json=as_json)
    ctx.exit(0 if result.is_equal else 1)


def _tell(prefix: Prefix, result: VerifyReport, junit: Path | None, *, is_github: bool, as_json: bool) -> None:
    if junit:
        write_atomically(junit, as_junit(result.findings, str(prefix.path), result.file_count))
    if as_json:
        console.answer_json({**asdict(result), "prefix": str(prefix.path), "is_equal": result.is_equal})
        return
    if result.findings:
        console.answer(as_github(result.findings, str(prefix.path)) if is_github else as_text(result.findings, _SHOWN))
    verdict = "exactly what the lock states" if result.is_equal else f"{len(result.findings)} findings"
    console.say(f"{result.file_count} files, {console.size(result.size_bytes)}: {verdict}")
    console.say(f"env digest {result.env_digest}")
