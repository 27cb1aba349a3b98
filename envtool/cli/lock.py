"""`envtool lock`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from envtool.cli.options import json_option

if TYPE_CHECKING:
    from envtool.lockfile.conda_lock_v1 import Lockfile
    from envtool.solve.lock import LockRequest
    from envtool.solve.staleness import Answer

_DEFAULT_SOURCE = Path("environment.yml")


@click.command("lock", short_help="Choose every package and write conda-lock.yml.")
@click.option(
    "-f", "--file", "paths", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
    help="An environment specification. Repeatable: several make one environment.  "
    "[default: the sources of the lock that is there, or environment.yml]",
)  # fmt: skip
@click.option(
    "-o", "--lockfile", "lockfile_path", type=click.Path(path_type=Path), metavar="FILE",
    help="Where to write.  [default: conda-lock.yml beside the first source]",
)  # fmt: skip
@click.option(
    "-p", "--platform", "platforms", multiple=True, help="Lock for this platform instead of those in FILE. Repeatable."
)
@click.option("--check", "is_check", is_flag=True, help="Only say whether the lock is current; exit code 1 when stale.")
@click.option(
    "--update", "updates", multiple=True, metavar="PACKAGE",
    help="Move this package to the newest that fits, or to a version (numpy=1.26), and nothing else that need not "
    "move. Repeatable.",
)  # fmt: skip
@click.option(
    "--exclude-newer", metavar="DATE|DAYS", help="Leave out what was published after a date, or in the last days."
)
@click.option(
    "--strategy", type=click.Choice(["highest", "lowest", "lowest-direct"]),
    help="Which of the versions that fit: lowest shows whether lower bounds are true.  [default: highest]",
)  # fmt: skip
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    paths: tuple[Path, ...],
    lockfile_path: Path | None,
    platforms: tuple[str, ...],
    is_check: bool,
    updates: tuple[str, ...],
    exclude_newer: str | None,
    strategy: str | None,
    as_json: bool,
) -> None:
    """Choose every package of every platform and write conda-lock.yml.

    Conda packages are chosen by conda's own rules, the wheels of the `pip:` section by uv. Every one is written down
    with its URL and sha256. The machine that locks does not matter: what the target machines have (glibc, CUDA) stands
    under `virtual-packages` in FILE.

    \b
    Examples:
      envtool lock
      envtool lock -f environment.yml -f dev.yml
      envtool lock --check                       in pre-commit and CI; needs no network
      envtool lock --update flask
      envtool lock --exclude-newer "7 days"
    """
    from envtool.solve.lock import LockRequest
    from envtool.spec.environment import read_spec

    if is_check and updates:
        raise click.UsageError("--check changes nothing, --update does; give one of them")
    sources, target = _places(paths, lockfile_path)
    given = {"exclude-newer": exclude_newer, "strategy": strategy, "platform": " ".join(sorted(platforms)) or None}
    options = {name: value for name, value in given.items() if value is not None}
    if is_check or updates:
        recorded = _recorded_options(target)
        platforms = platforms or tuple(recorded.get("platform", "").split())
        options = {**recorded, **options} if updates else options
    request = LockRequest(read_spec(sources, platforms), target, options)
    if is_check:
        ctx.exit(_check(request, as_json))
    _lock(request, updates, as_json)


def _places(paths: tuple[Path, ...], lockfile_path: Path | None) -> tuple[list[Path], Path]:
    from envtool.lockfile.conda_lock_v1 import read_lockfile

    target = lockfile_path or (paths[0] if paths else _DEFAULT_SOURCE).parent / "conda-lock.yml"
    if paths or not target.exists():
        return list(paths) or [_DEFAULT_SOURCE], target
    named = [target.parent / each for each in read_lockfile(target).sources]
    return (named if named and all(each.exists() for each in named) else [_DEFAULT_SOURCE]), target


def check_request(paths: tuple[Path, ...], lockfile_path: Path) -> LockRequest:
    """What the lock that is there would be made of now, with the options that it was made with.

    Args:
        paths: Its sources; those that it names itself when none are given.
        lockfile_path: The lock.
    """
    from envtool.solve.lock import LockRequest
    from envtool.spec.environment import read_spec

    sources, target = _places(paths, lockfile_path)
    platforms = tuple(_recorded_options(target).get("platform", "").split())
    return LockRequest(read_spec(sources, platforms), target, {})


def _recorded_options(target: Path) -> dict[str, str]:
    from envtool.lockfile.conda_lock_v1 import read_lockfile
    from envtool.solve.recorded_inputs import INPUTS_KEY, options_of

    recorded = read_lockfile(target).custom_metadata.get(INPUTS_KEY)
    return options_of(recorded) if recorded else {}


def _check(request: LockRequest, as_json: bool) -> int:
    from envtool import console
    from envtool.lockfile.conda_lock_v1 import read_lockfile
    from envtool.solve.staleness import check

    answer = check(read_lockfile(request.lockfile_path), request)
    if as_json:
        console.answer_json(_answer_dict(request, answer))
    elif answer.is_current:
        console.say(f"{request.lockfile_path} is current")
    else:
        for finding in answer.findings:
            console.answer(str(finding))
        console.say(f"{request.lockfile_path} is stale; envtool lock makes it anew")
    return 0 if answer.is_current else 1


def _answer_dict(request: LockRequest, answer: Answer) -> dict[str, Any]:
    from dataclasses import asdict

    changes = [asdict(each) for each in answer.changes]
    return {
        "lockfile": str(request.lockfile_path),
        "is_current": answer.is_current,
        "changes": changes,
        "missing": list(answer.missing),
    }


def _lock(request: LockRequest, updates: tuple[str, ...], as_json: bool) -> None:
    from envtool import console
    from envtool import paths as directories
    from envtool.fetch.archive_cache import Cache
    from envtool.lockfile.conda_lock_v1 import write_lockfile
    from envtool.mirrors import selection as mirror_choice
    from envtool.signing.trust import require_signed
    from envtool.solve.conda_solver import Repodata
    from envtool.solve.conflicts import explained
    from envtool.solve.lock import lock
    from envtool.solve.solution import Sources
    from envtool.solve.solve import repodata_urls

    names = ", ".join(str(path) for path in request.spec.paths)
    with console.Display() as display:
        known = mirror_choice.for_urls(repodata_urls(request.spec), Cache(directories.cache()), display)
        sources = Sources(Repodata(directories.repodata_cache(), known), known, display)
        with display.task(f"solve {names}"), explained(request, sources):
            if updates:
                from envtool.lockfile.conda_lock_v1 import read_lockfile
                from envtool.solve.update import update

                old = read_lockfile(request.lockfile_path)
                lockfile = update(old, updates, request, sources)
            else:
                lockfile = lock(request, sources)
        require_signed(lockfile.packages, Cache(directories.cache()), display)
        write_lockfile(request.lockfile_path, lockfile)
    _say(request, lockfile, as_json)


def _say(request: LockRequest, lockfile: Lockfile, as_json: bool) -> None:
    from envtool import console

    target = request.lockfile_path
    counts = {
        each: len({(p.manager, p.name) for p in lockfile.packages if p.platform == each}) for each in lockfile.platforms
    }
    if as_json:
        console.answer_json({"lockfile": str(target), "packages": counts, "content_hash": dict(lockfile.content_hash)})
    else:
        for platform, count in counts.items():
            console.say(f"locked {count} packages for {platform} in {target}")
