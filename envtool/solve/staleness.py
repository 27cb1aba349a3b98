"""The inputs that a lock records: what the next lock starts from, and whether this one is current with its sources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from envtool import console
from envtool.lockfile.conda_lock_v1 import INPUTS_KEY, Lockfile
from envtool.solve import recorded_inputs
from envtool.solve.content_hash import content_hashes, declared_packages
from envtool.solve.lock import LockRequest
from envtool.solve.recorded_inputs import Change
from envtool.spec.environment import DEFAULT_PLATFORM, package_name, read_spec

DEFAULT_SOURCE = Path("environment.yml")


def request(
    paths: Sequence[Path], target: Path, old: Lockfile | None, given: Mapping[str, str], *, keeps_options: bool = False
) -> LockRequest:
    """What to lock, so that nothing of the lock that is there is lost: without paths the sources of the lock, and of
    its options the platforms, or all (`keeps_options`). Raises MissingFileError, or SpecError if a source is
    malformed."""
    recorded = recorded_options(old)
    kept = {name: value for name, value in recorded.items() if keeps_options or name == "platform"}
    options = {**kept, **given}
    named = [target.parent / source for source in old.sources] if old else []
    sources = named if named and all(each.exists() for each in named) else [DEFAULT_SOURCE]
    spec = read_spec(
        paths or sources,
        tuple(options.get("platform", "").split()),
        default=(old.platforms if old else ()) or (DEFAULT_PLATFORM,),
    )
    for warning in spec.warnings:
        console.warn(str(warning))
    return LockRequest(spec, target, options)


def recorded_options(old: Lockfile | None) -> dict[str, str]:
    """What the command line said when a lock was made; empty where another tool made it."""
    recorded = old.custom_metadata.get(INPUTS_KEY) if old else None
    options: dict[str, str] = json.loads(recorded).get("options", {}) if recorded else {}
    return options


class Staleness(NamedTuple):
    """What a check found."""

    changes: tuple[Change, ...] = ()  # how the sources differ from what the lock was made from
    missing: tuple[str, ...] = ()  # what is asked for and not in the lock, in words; a bad merge can do that

    @property
    def is_current(self) -> bool:
        """Whether the lock is the one that the sources ask for."""
        return not (self.changes or self.missing)

    @property
    def findings(self) -> tuple[object, ...]:
        """Everything that was found, each with words for people."""
        return (*self.changes, *self.missing)


def check(lockfile: Lockfile, request: LockRequest) -> Staleness:
    """Compare a lock with what would be made of its sources now; options that are not given count as they were."""
    recorded = lockfile.custom_metadata.get(INPUTS_KEY)
    changes = _compare_hashes(lockfile, request) if recorded is None else recorded_inputs.compare(
        recorded, request.spec, request.options
    )  # fmt: skip
    missing: list[str] = []
    for platform in request.spec.platforms:
        locked = {name for _, name in lockfile.of(platform.platform)}
        if platform.platform in lockfile.platforms:  # the comparison of the inputs names the others
            absent = (each for each in platform.conda if package_name(each.text) not in locked)
            missing += [f"{each.place}: {each.text} is not in the lock ({platform.platform})" for each in absent]
    return Staleness(tuple(changes), tuple(missing))


def _compare_hashes(lockfile: Lockfile, request: LockRequest) -> Iterator[Change]:
    # A lock of conda-lock says only a hash of its sources, so that nothing more can be told than whether it differs.
    declared = declared_packages(request.spec)
    theirs, ours = content_hashes(request.spec, None), content_hashes(request.spec, declared)
    place = str(request.spec.paths[0])
    for platform in sorted(theirs.keys() | lockfile.content_hash.keys()):
        recorded = lockfile.content_hash.get(platform)
        if recorded is None or platform not in theirs:
            kind = "added" if recorded is None else "removed"
            yield Change(kind, "platform", recorded and platform, platform if recorded is None else None, place)
        elif recorded not in (theirs[platform], ours[platform]):
            yield Change("changed", "content hash", recorded[:12], ours[platform][:12], place, (platform,))
