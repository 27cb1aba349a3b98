"""`envtool lock`, `why-not` and `outdated`: what a lock has, and could have instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from envtool import console
from envtool import paths as directories
from envtool.cli import options
from envtool.errors import LockfileError
from envtool.fetch.archive_cache import Cache
from envtool.inspect_lock import moves
from envtool.inspect_lock.diff import as_table, compare, compare_versions
from envtool.lockfile.conda_lock_v1 import Lockfile, read_lockfile, write_lockfile
from envtool.signing.trust import require_signed
from envtool.solve import staleness
from envtool.solve.conflicts import explained
from envtool.solve.lock import LockRequest, lock, opened_sources, package_of, update


@click.command("lock")
@click.option("-f", "--file", "paths", type=options.PATH, multiple=True, metavar="FILE",
              help="An environment specification. Repeatable: several make one environment.  "
              "[default: the sources of the lock that is there, or environment.yml]")  # fmt: skip
@click.option("-o", "--lockfile", "lockfile_path", type=options.PATH, metavar="FILE",
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
@options.attest_option
@options.attest_key_option
@options.json_option
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
    options.require_attest_key(attest, attest_key)
    if is_check and (updates or is_upgrade or is_dry_run):
        raise click.UsageError("--check solves nothing and changes nothing; give it alone")
    target = lockfile_path or (paths[0] if paths else staleness.DEFAULT_SOURCE).parent / "conda-lock.yml"
    given = {"exclude-newer": exclude_newer, "strategy": strategy, "platform": " ".join(sorted(platforms)) or None}
    stated = {name: value for name, value in given.items() if value is not None}
    if is_check:
        ctx.exit(_check(paths, target, stated, as_json))
    old = None
    try:
        old = read_lockfile(target) if target.exists() else None
    except LockfileError:
        if not is_upgrade:  # nothing of it is needed for that
            raise
    if updates and old is None:
        raise click.UsageError(f"{target} does not exist, so that nothing of it can be moved; envtool lock makes it")
    request = staleness.request(paths, target, old, stated, keeps_options=bool(updates))
    before = staleness.recorded_options(old).get("strategy", "highest")
    # To keep what was chosen by another rule would answer nothing.
    if old and not is_upgrade and before != request.options.get("strategy", "highest"):
        console.say("  every package is chosen anew, since the strategy is another one")
        is_upgrade = True
    _lock(request, old, None if is_upgrade else updates, is_dry_run, as_json)
    if attest and attest_key and not is_dry_run:
        from envtool.signing import attestation

        statement = attestation.provenance(request.lockfile_path, request.spec.paths, request.options)
        attestation.write(attest, statement, attest_key)


def _check(paths: tuple[Path, ...], target: Path, stated: dict[str, str], as_json: bool) -> int:
    old = read_lockfile(target)
    request = staleness.request(paths, target, old, stated)
    answer = staleness.check(old, request)
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
    moved: list[moves.Move] = []
    with opened_sources(request) as sources:
        with sources.display.task(f"solve {names}"), explained(request, sources):
            if old is None or updates is None:
                lockfile = lock(request, sources)
            else:
                lockfile = update(old, updates, request, sources)
                moved = moves.moves(old, lockfile, request, sources.repodata, [package_of(each) for each in updates])
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


@click.command("why-not")
@click.argument("spec")
@options.file_option
@options.platform_option
@options.json_option
@click.pass_context
def why_not(ctx: click.Context, spec: str, lockfile_path: Path, platform: str | None, as_json: bool) -> None:
    """Say why a lock cannot have SPEC, such as numpy=2.3: which lines of environment.yml are in the way.

    Exit code 1 when nothing is: then it states what would move.
    """
    old = read_lockfile(lockfile_path)
    request = staleness.request((), lockfile_path, old, {}, keeps_options=True)
    chosen = options.chosen_platform(old, platform)
    with opened_sources(request) as sources:
        reason, moved = moves.why_not(spec, old, request, chosen, sources)
    if as_json:
        console.answer_json(
            {"spec": spec, "fits": reason is None, "reason": reason, "moves": [str(each) for each in moved]}
        )
    elif reason is not None:
        console.answer(reason)
    else:
        for each in moved:
            console.answer(f"would move {each}")
        console.say(f"{spec} fits for {chosen}" + ("" if moved else ", and nothing would move"))
    ctx.exit(0 if reason is not None else 1)


@click.command("outdated")
@options.file_option
@options.platform_option
@options.json_option
def outdated(lockfile_path: Path, platform: str | None, as_json: bool) -> None:
    """Show the packages of a lock that have newer versions: those of environment.yml first.

    For each: what is locked, the newest that fits with all lines, the newest that there is, and what holds it back.
    Nothing is written; `envtool lock --upgrade` moves everything to what fits.
    """
    old = read_lockfile(lockfile_path)
    request = staleness.request((), lockfile_path, old, {}, keeps_options=True)
    chosen = options.chosen_platform(old, platform)
    with opened_sources(request) as sources, explained(request, sources):
        found = moves.outdated(old, request, chosen, sources)
    if as_json:
        console.answer_json([each._asdict() for each in found])
        return
    rows = [("package", "locked", "fits", "newest", "held by"), *(
        (f"{each.name} (pip)" if each.manager == "pip" else each.name, each.locked, each.fits or "-", each.newest,
         each.held_by or "")
        for each in found
    )]  # fmt: skip
    own = sum(each.is_own for each in found)
    for number, line in enumerate(console.table(rows) if found else ()):
        if number == own + 1 and own > 0:
            console.answer("")
        console.answer(line)
    console.say(f"{len(found)} of the packages for {chosen} have a newer version, {own} of them are asked for by name")
