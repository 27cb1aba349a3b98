"""`envtool lock`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from envtool import console
from envtool import paths as directories
from envtool.cli.options import PATH, attest_key_option, attest_option, json_option, require_attest_key
from envtool.errors import LockfileError
from envtool.fetch.archive_cache import Cache
from envtool.inspect_lock.diff import as_table, compare, compare_versions
from envtool.inspect_lock.moves import Move, moves
from envtool.lockfile.conda_lock_v1 import Lockfile, read_lockfile, write_lockfile
from envtool.signing.trust import require_signed
from envtool.solve import staleness
from envtool.solve.conflicts import explained
from envtool.solve.lock import LockRequest, lock, opened_sources
from envtool.solve.staleness import check
from envtool.solve.update import package_of, update


@click.command("lock")
@click.option("-f", "--file", "paths", type=PATH, multiple=True, metavar="FILE",
              help="An environment specification. Repeatable: several make one environment.  "
              "[default: the sources of the lock that is there, or environment.yml]")  # fmt: skip
@click.option("-o", "--lockfile", "lockfile_path", type=PATH, metavar="FILE",
              help="Where to write.  [default: conda-lock.yml beside the first source]")  # fmt: skip
@click.option("-p", "--platform", "platforms", multiple=True,
              help="Lock for this platform instead of those in FILE. Repeatable.")  # fmt: skip
@click.option("--check", "is_check", is_flag=True, help="Only say whether the lock is current; exit code 1 when stale.")
@click.option("--upgrade", "is_upgrade", is_flag=True, help="Choose every package anew, whatever is locked.")
@click.option("--upgrade-package", "--update", "updates", multiple=True, metavar="PACKAGE",
    help="Move this package to the newest that fits, or to a version (numpy=1.26), and nothing else that need not "
    "move. Repeatable.")  # fmt: skip
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Show what would change and write nothing.")
@click.option("--exclude-newer", metavar="DATE|DAYS",
              help="Leave out what was published after a date, or in the last days.")  # fmt: skip
@click.option("--strategy", type=click.Choice(["highest", "lowest", "lowest-direct"]),
              help="Which of the versions that fit: lowest shows whether lower bounds are true.  [default: highest]",
)  # fmt: skip
@attest_option
@attest_key_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, paths: tuple[Path, ...], lockfile_path: Path | None, platforms: tuple[str, ...], is_check: bool,
    is_upgrade: bool, is_dry_run: bool, updates: tuple[str, ...], exclude_newer: str | None, strategy: str | None,
    attest: Path | None, attest_key: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Choose every package of every platform and write conda-lock.yml.

    What is locked already stays as long as FILE allows it; each package that has to move is named with the reason.

    Conda packages are chosen by conda's own rules, the wheels of the `pip:` section by uv. Every one is written down
    with its URL and sha256. The machine that locks does not matter: what the target machines have (glibc, CUDA) stands
    under `virtual-packages` in FILE.

    \b
    Examples:
      envtool lock
      envtool lock -f environment.yml -f dev.yml
      envtool lock --check                       in pre-commit and CI; needs no network
      envtool lock --upgrade                     everything to what is newest now
      envtool lock --upgrade-package flask
      envtool lock --exclude-newer "7 days"
    """
    require_attest_key(attest, attest_key)
    if is_check and (updates or is_upgrade or is_dry_run):
        raise click.UsageError("--check solves nothing and changes nothing; give it alone")
    target = lockfile_path or (paths[0] if paths else staleness.DEFAULT_SOURCE).parent / "conda-lock.yml"
    given = {"exclude-newer": exclude_newer, "strategy": strategy, "platform": " ".join(sorted(platforms)) or None}
    options = {name: value for name, value in given.items() if value is not None}
    if is_check:
        ctx.exit(_check(paths, target, options, as_json))
    old = None
    try:
        old = read_lockfile(target) if target.exists() else None
    except LockfileError:
        if not is_upgrade:  # nothing of it is needed for that
            raise
    if updates and old is None:
        raise click.UsageError(f"{target} does not exist, so that nothing of it can be moved; envtool lock makes it")
    request = staleness.request(paths, target, old, options, keeps_options=bool(updates))
    if old and not is_upgrade and staleness.has_other_strategy(old, request.options):
        console.say("  every package is chosen anew, since the strategy is another one")
        is_upgrade = True
    _lock(request, old, None if is_upgrade else updates, is_dry_run, as_json)
    if attest and attest_key and not is_dry_run:
        from envtool.signing import attestation

        stated = attestation.provenance(request.lockfile_path, request.spec.paths, request.options)
        attestation.write(attest, stated, attest_key)


def _check(paths: tuple[Path, ...], target: Path, options: dict[str, str], as_json: bool) -> int:
    old = read_lockfile(target)
    request = staleness.request(paths, target, old, options)
    answer = check(old, request)
    if as_json:
        head = {"lockfile": str(request.lockfile_path), "is_current": answer.is_current}
        changes = [each._asdict() for each in answer.changes]
        console.answer_json({**head, "changes": changes, "missing": list(answer.missing)})
    elif answer.is_current:
        console.say(f"{request.lockfile_path} is current")
    else:
        for finding in answer.findings:
            console.answer(str(finding))
        console.say(f"{request.lockfile_path} is stale; envtool lock makes it anew")
    return 0 if answer.is_current else 1


def _lock(
    request: LockRequest, old: Lockfile | None, updates: tuple[str, ...] | None, is_dry_run: bool, as_json: bool
) -> None:
    """Lock; without `updates` everything is chosen anew."""
    names = ", ".join(str(path) for path in request.spec.paths)
    moved: list[Move] = []
    with opened_sources(request) as sources:
        with sources.display.task(f"solve {names}"), explained(request, sources):
            if old is None or updates is None:
                lockfile = lock(request, sources)
            else:
                lockfile = update(old, updates, request, sources)
                moved = moves(old, lockfile, request, sources.repodata, [package_of(each) for each in updates])
        require_signed(lockfile.packages, Cache(directories.cache()), sources.display)
        if not is_dry_run:
            write_lockfile(request.lockfile_path, lockfile)
    counts = {each: len(lockfile.of(each)) for each in lockfile.platforms}
    gone = sorted(set(old.platforms if old else ()) - set(lockfile.platforms))
    differences = compare(old or replace(lockfile, packages=()), lockfile, compare_versions)
    if as_json:
        head = {"lockfile": str(request.lockfile_path), "content_hash": dict(lockfile.content_hash)}
        reasons = [{**each.difference._asdict(), "reason": each.reason} for each in moved]
        changes = {"changes": [each._asdict() for each in differences]} if is_dry_run else {}
        console.answer_json({**head, "packages": counts, "moved": reasons, "removed_platforms": gone, **changes})
        return
    if is_dry_run and differences:
        console.answer(as_table(differences, lockfile.platforms))
    for each in moved:
        console.say(f"  moved {each}")
    if gone:
        console.say(f"  no longer locked: {', '.join(gone)}")
    for platform, count in counts.items():
        verb = "would lock" if is_dry_run else "locked"
        console.say(f"{verb} {count} packages for {platform} in {request.lockfile_path}")
