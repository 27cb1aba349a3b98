"""`envtool verify` and `digest`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from envtool import console, paths
from envtool.atomic_files import write_atomically
from envtool.cli import options
from envtool.fetch.archive_cache import Cache
from envtool.install.create import compare_with_rebuilt
from envtool.prefix.prefix import Prefix
from envtool.signing import attestation
from envtool.solve.md5_completion import read_complete
from envtool.verify import as_github, as_junit, as_text, take_inventory
from envtool.verify import verify as compare

_SHOWN = 40


@click.command("verify")
@options.environment_options
@options.made_for_option
@options.file_option
@click.option("--rebuild", is_flag=True,
              help="Make the lock a second time elsewhere, and compare the two file by file.")  # fmt: skip
@click.option("--junit", type=options.PATH, help="Also write the findings to this file, as JUnit XML.")
@click.option("--github", is_flag=True, help="Print the findings as annotations for GitHub Actions.")
@options.attest_option
@options.attest_key_option
@options.json_option
@click.pass_context
def verify(
    ctx: click.Context, prefix: Prefix, lockfile_path: Path, rebuild: bool, junit: Path | None, github: bool,
    attest: Path | None, attest_key: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Prove that an environment is exactly what its lock states.

    Every file is read and compared with what the lock's archives and wheels hold, files that no package brings
    included. Exit code 0 when nothing differs, 1 with the findings otherwise: extra, missing or mismatched.

    Byte-code and scripts are made while installing and are in no archive; they are compared with what `create` made.
    With --rebuild they are compared with a second environment, made from the lock in a temporary directory: the
    reproducibility check for CI.
    """
    options.require_attest_key(attest, attest_key)
    lockfile = read_complete(lockfile_path)
    receipt = prefix.require_whole()
    locked = lockfile.select(receipt.platform, receipt.categories)
    cache = Cache(paths.cache())
    with console.ProgressDisplay() as display:
        result = compare(prefix, locked, cache, display)
        if rebuild:
            result = compare_with_rebuilt(prefix, lockfile, result, cache, display)
    if attest and attest_key:
        verdict = {"is_equal": result.is_equal, "findings": len(result.findings), "files": result.file_count,
                   "rebuilt": rebuild}  # fmt: skip
        attestation.write(
            attest, attestation.environment(result.env_digest, lockfile_path, locked, verdict), attest_key
        )
    if junit:
        write_atomically(junit, as_junit(result.findings, str(prefix.path), result.file_count))
    if as_json:
        console.answer_json({**asdict(result), "prefix": str(prefix.path), "is_equal": result.is_equal})
    else:
        if result.findings:
            console.answer(as_github(result.findings, str(prefix.path)) if github else as_text(result.findings, _SHOWN))
        found = "exactly what the lock states" if result.is_equal else f"{len(result.findings)} findings"
        console.say(f"{result.file_count} files, {console.size(result.size_bytes)}: {found}")
        console.say(f"env digest {result.env_digest}")
    ctx.exit(0 if result.is_equal else 1)


@click.command("digest")
@options.environment_options
@options.made_for_option
@options.file_option
@options.json_option
def digest(prefix: Prefix, lockfile_path: Path, as_json: bool) -> None:
    """Compute the env digest of an environment from its files as they are now.

    One sha256 over the path, kind, mode and content of every file, with the environment's own path taken out: equal in
    any directory and on any machine, or the environments differ. docs/reference/env-digest.md defines it.
    """
    receipt = prefix.require_whole()
    locked = read_complete(lockfile_path).select(receipt.platform, receipt.categories)
    with console.ProgressDisplay() as display:
        found = take_inventory(prefix, locked, Cache(paths.cache()), display).env_digest
    answer = {"prefix": str(prefix.path), "env_digest": found, "as_made": receipt.env_digest}
    console.answer_json(answer) if as_json else console.answer(found)
