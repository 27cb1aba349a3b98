"""`envtool digest`."""

from __future__ import annotations

from pathlib import Path

import click

from envtool import console, paths
from envtool.cli.options import file_option, json_option, made_for_option, name_option, prefix_option
from envtool.fetch.archive_cache import Cache
from envtool.prefix.prefix import find_prefix
from envtool.solve.md5_completion import read_complete
from envtool.verify import take_inventory


@click.command("digest")
@name_option
@prefix_option
@made_for_option
@file_option
@json_option
def command(name: str | None, path: Path | None, made_for: Path | None, lockfile_path: Path, as_json: bool) -> None:
    """Compute the env digest of an environment from its files as they are now.

    One sha256 over the path, kind, mode and content of every file, with the environment's own path taken out: equal in
    any directory and on any machine, or the environments differ. docs/reference/env-digest.md defines it.
    """
    prefix = find_prefix(name, path, made_for)
    receipt = prefix.require_whole()
    locked = read_complete(lockfile_path).select(receipt.platform, receipt.categories)
    with console.ProgressDisplay() as display:
        digest = take_inventory(prefix, locked, Cache(paths.cache()), display).env_digest
    if as_json:
        console.answer_json({"prefix": str(prefix.path), "env_digest": digest, "as_made": receipt.env_digest})
    else:
        console.answer(digest)
