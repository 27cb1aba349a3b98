"""Carry out a plan in a prefix: link archives, install wheels, remove what is extra, compile byte-code."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from envtool.locking.lockfile import LockedPackage
from envtool.prefixes import bytecode, link
from envtool.prefixes.archives import require_sha256
from envtool.prefixes.bytecode import source_of
from envtool.prefixes.inventory import Entry
from envtool.prefixes.link import LinkRequest
from envtool.prefixes.plan import Plan
from envtool.prefixes.prefix import Prefix
from envtool.report import Display
from envtool.unpacked.place import Placing, place


def archives_needed(wanted: Sequence[LockedPackage], plan: Plan) -> list[LockedPackage]:
    """The packages whose archives or wheels a plan needs."""
    return [each for each in wanted if each in plan.install]


def carry_out(
    prefix: Prefix,
    plan: Plan,
    wanted: Sequence[LockedPackage],
    placings: Sequence[Placing],
    proven: Mapping[str, Path],
    platform: str,
    display: Display,
) -> dict[str, Entry]:
    """Change a prefix as a plan says.

    Args:
        prefix: The prefix, locked and marked incomplete.
        plan: What to change.
        wanted: Every package that the prefix shall have.
        placings: What need not be unpacked; none unless the plan starts over.
        proven: The file of each other URL that the plan needs.
        platform: The platform of the prefix.
        display: Where progress is shown.

    Returns:
        The files that were placed as they are stored, by path.

    Raises:
        EnvtoolError: An archive or wheel cannot be installed.
    """
    placed = {each.package.url for each in placings}
    if plan.starts_over:
        prefix.clear()
    for path in plan.delete:
        _delete(prefix.path, path)
    known = _place(prefix, placings, display)
    linked = [each for each in plan.installs("conda") if each.url not in placed]
    if linked or (plan.removes("conda") and not plan.starts_over):
        _link(prefix, linked, wanted, proven, platform, display)
    gone = [each.name for each in plan.removes("pip") if each.name not in {new.name for new in plan.installs("pip")}]
    if gone and not plan.starts_over:
        from envtool.locking import wheels

        wheels.uninstall(gone, prefix.path)
    new_wheels = [each for each in plan.installs("pip") if each.url not in placed]
    if new_wheels:
        _install_wheels(prefix, new_wheels, proven, display)
    if prefix.python.exists():
        with display.task("compile byte-code"):
            bytecode.compile_all(prefix.path, prefix.python, [path for path in known if source_of(path)])
    return known


def _place(prefix: Prefix, placings: Sequence[Placing], display: Display) -> dict[str, Entry]:
    if not placings:
        return {}
    with display.task(f"place {len(placings)} unpacked packages"):
        return place(placings, prefix.path)


def _link(
    prefix: Prefix,
    new: Sequence[LockedPackage],
    wanted: Sequence[LockedPackage],
    proven: Mapping[str, Path],
    platform: str,
    display: Display,
) -> None:
    kept = [each.name for each in wanted if each.manager == "conda" and each not in new]
    with display.task(f"link {len(new)} conda packages"), _scratch(prefix, "archives") as scratch:
        requests = [LinkRequest(each.name, each.url, require_sha256(each), proven[each.url], each.md5) for each in new]
        link.link(requests, kept, prefix.path, platform, scratch)


def _install_wheels(prefix: Prefix, new: Sequence[LockedPackage], proven: Mapping[str, Path], display: Display) -> None:
    from envtool.locking import wheels  # many environments have none

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
