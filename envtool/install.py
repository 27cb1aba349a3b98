"""Carry out a plan in a prefix: link archives, install wheels, remove what is extra, compile byte-code."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from envtool import bytecode, link, wheels
from envtool.archives import require_sha256
from envtool.link import LinkRequest
from envtool.lockfile import LockedPackage
from envtool.plan import Plan
from envtool.prefix import Prefix
from envtool.report import Display


def archives_needed(wanted: Sequence[LockedPackage], plan: Plan) -> list[LockedPackage]:
    """The packages whose archives or wheels a plan needs."""
    return [each for each in wanted if each in plan.install]


def carry_out(
    prefix: Prefix,
    plan: Plan,
    wanted: Sequence[LockedPackage],
    proven: Mapping[str, Path],
    platform: str,
    display: Display,
) -> None:
    """Change a prefix as a plan says.

    Args:
        prefix: The prefix, locked and marked incomplete.
        plan: What to change.
        wanted: Every package that the prefix shall have.
        proven: The file of each URL that the plan needs.
        platform: The platform of the prefix.
        display: Where progress is shown.

    Raises:
        EnvtoolError: An archive or wheel cannot be installed.
    """
    if plan.starts_over:
        prefix.clear()
    for path in plan.delete:
        _delete(prefix.path, path)
    if plan.installs("conda") or (plan.removes("conda") and not plan.starts_over):
        _link(prefix, plan, wanted, proven, platform, display)
    gone = [each.name for each in plan.removes("pip") if each.name not in {new.name for new in plan.installs("pip")}]
    if gone and not plan.starts_over:
        wheels.uninstall(gone, prefix.path)
    if plan.installs("pip"):
        _install_wheels(prefix, plan.installs("pip"), proven, display)
    if prefix.python.exists():
        with display.task("compile byte-code"):
            bytecode.compile_all(prefix.path, prefix.python)


def _link(
    prefix: Prefix,
    plan: Plan,
    wanted: Sequence[LockedPackage],
    proven: Mapping[str, Path],
    platform: str,
    display: Display,
) -> None:
    new = plan.installs("conda")
    kept = [each.name for each in wanted if each.manager == "conda" and each not in new]
    with display.task(f"link {len(new)} conda packages"), _scratch(prefix, "archives") as scratch:
        requests = [LinkRequest(each.name, each.url, require_sha256(each), proven[each.url]) for each in new]
        link.link(requests, kept, prefix.path, platform, scratch)


def _install_wheels(prefix: Prefix, new: Sequence[LockedPackage], proven: Mapping[str, Path], display: Display) -> None:
    with display.task(f"install {len(new)} wheels"), _scratch(prefix, "wheels") as scratch:
        by_name = {f"{each.name}=={each.version}": each for each in new}
        paths = {name: proven[each.url] for name, each in by_name.items()}
        wheels.install(paths, {name: require_sha256(each) for name, each in by_name.items()}, prefix.path, scratch)


@contextmanager
def _scratch(prefix: Prefix, name: str) -> Iterator[Path]:
    # Fresh and on the same file system: extracted files are hard-linked into the prefix, and with the directory gone
    # no other environment and no cache shares them, so that an edit in one environment cannot reach another.
    path = prefix.meta / ".scratch" / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path.parent, ignore_errors=True)


def _delete(prefix: Path, path: str) -> None:
    (prefix / path).unlink(missing_ok=True)
    for parent in (prefix / path).parents:
        if parent == prefix or any(parent.iterdir()):
            break
        parent.rmdir()
