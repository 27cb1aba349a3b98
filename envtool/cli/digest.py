"""`envtool digest`."""

from __future__ import annotations

from pathlib import Path

import click

from envtool.cli.options import file_option, json_option, name_option, prefix_option


@click.command("digest", short_help="Compute the env digest of an environment.")
@name_option
@prefix_option
@file_option
@json_option
def command(name: str | None, path: Path | None, lockfile_path: Path, as_json: bool) -> None:
    """Compute the env digest of an environment from its files as they are now.

    One sha256 over the path, kind, mode and content of every file, with the environment's own path taken out: equal in
    any directory and on any machine, or the environments differ. docs/reference/env-digest.md defines it.
    """
    from envtool import directories, report
    from envtool.fetching.cache import Cache
    from envtool.locking.completion import read_complete
    from envtool.prefixes.prefix import find_prefix
    from envtool.prefixes.verify import take_inventory

    prefix = find_prefix(name, path)
    receipt = prefix.require_whole()
    locked = read_complete(lockfile_path).select(receipt.platform, receipt.categories)
    with report.Display() as display:
        digest = take_inventory(prefix, locked, Cache(directories.cache()), display).env_digest
    if as_json:
        report.answer_json({"prefix": str(prefix.path), "env_digest": digest, "as_made": receipt.env_digest})
    else:
        report.answer(digest)
