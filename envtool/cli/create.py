"""`envtool create`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from envtool import console, policy
from envtool import paths as directories
from envtool.cli import options
from envtool.install.request import Plan, Request
from envtool.prefix.prefix import Prefix
from envtool.solve.md5_completion import read_complete

if TYPE_CHECKING:
    from envtool.install.create import Estimate, Outcome


@click.command("create")
@options.environment_options
@options.file_option
@options.installed_category_option
@options.machine_platform_option
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--repair", is_flag=True, help="Read every file, and mend what was altered, removed or added.")
@click.option("--force", is_flag=True, help="Make everything anew, even if nothing seems to have changed.")
@click.option("--offline", is_flag=True, help="Use only the cache; list what is missing from it.")
@click.option("--frozen", is_flag=True, help="Mark the environment so that conda does not change it (CEP 22).")
@options.json_option
def command(
    prefix: Prefix, lockfile_path: Path, categories: tuple[str, ...], platform: str | None, dry_run: bool,
    repair: bool, force: bool, offline: bool, frozen: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make an environment equal to a lock.

    Every archive and wheel that is installed is hashed before anything in the environment is touched, and every file
    that it brought is compared with it in the end. What is missing is installed, what is extra is removed, and nothing
    is done when the environment is up to date already. A create that was stopped goes on when it is run again.

    A package that an earlier create proved and kept unpacked is copied from there, unless it was touched since; --force
    takes the archives.

    \b
    Examples:
      envtool create -n serving
      envtool create -p /opt/serving --category main --category dev
      envtool create -n serving --repair
    """
    request = Request(
        lockfile=read_complete(lockfile_path, is_offline=offline), platform=platform or options.this_platform(),
        categories=categories, command=options.command_line(), starts_over=force, repairs=repair, is_offline=offline,
        is_frozen=frozen,
    )  # fmt: skip
    policy.require(request, lockfile_path)
    plan, outcome, digest = _carry_out(request, prefix, is_dry=dry_run)
    policy.require(request, lockfile_path, digest)
    if outcome is not None:
        say_outcome(outcome)
    if as_json:
        told = as_told(outcome) if outcome else {}
        needs = asdict(_forecast(plan, prefix, request)[0]) if dry_run else {}
        head = {"prefix": str(prefix.path), "dry_run": dry_run, "env_digest": digest}
        console.answer_json({
            **needs, **head, **told, "changed": not plan.is_empty, "starts_over": plan.starts_over,
            "install": [f"{each.manager} {each.name} {each.version}" for each in plan.install],
            "remove": [f"{each.manager} {each.name} {each.version}" for each in plan.remove],
            "delete": list(plan.delete),
        })  # fmt: skip
    elif dry_run:
        _show(plan, prefix, request)
    else:
        say_made(plan, prefix, digest)


def _carry_out(request: Request, prefix: Prefix, *, is_dry: bool) -> tuple[Plan, Outcome | None, str | None]:
    receipt = request.fulfilled(prefix)
    if receipt is not None:
        if request.is_frozen and not is_dry:
            from envtool.prefix.conda_meta import freeze

            freeze(prefix.meta)
        return Plan(()), None, receipt.env_digest

    # Not imported where there is nothing to do.
    from envtool.fetch.archive_cache import Cache
    from envtool.install.create import create, preview

    with console.ProgressDisplay() as display:
        if is_dry:
            return preview(request, prefix, Cache(directories.cache()), display), None, None
        outcome = create(request, prefix, Cache(directories.cache()), display)
        return outcome.plan, outcome, outcome.receipt.env_digest


def say_outcome(outcome: Outcome) -> None:
    """Print what there is to know of what was made."""
    for line in outcome.notes():
        console.say(f"  {line}")
    for line in outcome.warnings():
        console.warn(line)


def as_told(outcome: Outcome) -> dict[str, Any]:
    """What there is to know of what was made, for --json."""
    return {
        "clobbers": [
            {"path": each.path, "winner": " ".join(each.winner), "loser": " ".join(each.loser)}
            for each in outcome.clobbers
        ],
        "link_scripts": {name: list(paths) for name, paths in outcome.link_scripts.items()},
        "link_scripts_run": list(outcome.scripts_run),
        "messages": list(outcome.messages),
        "cuda": outcome.cuda,
        "distributions_twice": list(outcome.twice),
    }


def _show(plan: Plan, prefix: Prefix, request: Request) -> None:
    if plan.is_empty:
        console.answer(f"nothing to do: {prefix.path} is already up to date")
        return
    if plan.starts_over:
        console.answer(f"make {prefix.path} from nothing")
    needs, sizes = _forecast(plan, prefix, request)
    for new in plan.install:
        size_bytes = sizes.get(new.url)
        shown = console.size(size_bytes) if size_bytes is not None else "size unknown"
        console.answer(f"install  {new.manager:5}  {new.name} {new.version}  {shown}")
    for old in plan.remove:
        console.answer(f"remove   {old.manager:5}  {old.name} {old.version}")
    for path in plan.delete:
        console.answer(f"delete   {path}")
    unknown = f", and {needs.unknown} of unknown size" if needs.unknown else ""
    console.answer(f"download {console.size(needs.download_bytes)} in {needs.downloads} files{unknown}")
    console.answer(f"disk     about {console.size(needs.disk_bytes)}, {console.size(needs.free_bytes)} are free")


def _forecast(plan: Plan, prefix: Prefix, request: Request) -> tuple[Estimate, Mapping[str, int | None]]:
    from envtool.fetch.archive_cache import Cache
    from envtool.inspect_lock.package_metadata import look_up
    from envtool.install.create import estimate

    sizes = {url: each.size_bytes for url, each in look_up(plan.install, is_offline=True).items()}
    return estimate(plan, request.packages, prefix.path, Cache(directories.cache()), sizes), sizes


def say_made(plan: Plan, prefix: Prefix, digest: str | None) -> None:
    """Print what was changed, and the env digest."""
    if plan.is_empty:
        console.say(f"nothing to do: {prefix.path} is already up to date")
    else:
        counts = f"{len(plan.install)} installed, {len(plan.remove)} removed, {len(plan.delete)} files deleted"
        console.say(f"made {prefix.path}: {counts}")
    console.say(f"env digest {digest}")
