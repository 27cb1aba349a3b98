"""`envtool cache`."""

from __future__ import annotations

import click

from envtool import console, paths
from envtool.cli import CommandGroup
from envtool.cli.options import json_option
from envtool.fetch.archive_cache import Cache
from envtool.package_cache.store import PackageCache, prune, sizes, stale


@click.group("cache", cls=CommandGroup)
def command() -> None:
    """See what the cache takes, and make room.

    Archives, wheels and unpacked packages are kept so that the next environment needs no network and little time. No
    environment needs them once it is made.
    """


@command.command("list")
@json_option
def list_parts(as_json: bool) -> None:
    """Show what each part of the cache takes."""
    found = sizes(Cache(paths.cache()))
    if as_json:
        console.answer_json({"cache": str(paths.cache()), "size_bytes": found})
        return
    for part, size_bytes in found.items():
        console.answer(f"{part:10} {console.size(size_bytes):>10}")


@command.command("prune")
@click.option("--days", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Unused for so many days.")
@click.option("--all", "is_all", is_flag=True, help="Remove all of them.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
def prune_unpacked(days: float, is_all: bool, dry_run: bool, as_json: bool) -> None:
    """Remove unpacked packages that are no longer in use.

    Those go that no create has used for some days. Archives and wheels stay; the next create unpacks again.
    Environments share nothing with the cache, so that none is harmed.
    """
    store = PackageCache(Cache(paths.cache()))
    found = stale(store, 0 if is_all else days)
    if not dry_run:
        prune(store, found)
    size_bytes = sum(each.size_bytes for each in found)
    if as_json:
        console.answer_json({"packages": len(found), "size_bytes": size_bytes, "dry_run": dry_run})
    else:
        done = "would be removed" if dry_run else "removed"
        console.answer(f"{len(found)} unpacked packages {done}, {console.size(size_bytes)}")
