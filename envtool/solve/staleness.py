"""Whether a lock is current with its sources, from the files alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from envtool.lockfile.conda_lock_v1 import INPUTS_KEY, Lockfile
from envtool.solve import recorded_inputs
from envtool.solve.lock import LockRequest, with_virtual_packages
from envtool.solve.recorded_inputs import Change
from envtool.spec.environment import package_name


@dataclass(frozen=True)
class Staleness:
    """What a check found.

    Args:
        changes: how the sources differ from what the lock was made from.
        missing: what is asked for and not in the lock, in words; a bad merge can do that.
    """

    changes: tuple[Change, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        """Whether the lock is the one that the sources ask for."""
        return not (self.changes or self.missing)

    @property
    def findings(self) -> tuple[object, ...]:
        """Everything that was found, each with words for people."""
        return (*self.changes, *self.missing)


def check(lockfile: Lockfile, request: LockRequest) -> Staleness:
    """Compare a lock with its sources.

    Args:
        request: what a lock would be made of now; options that it lacks count as they were.
    """
    recorded = lockfile.custom_metadata.get(INPUTS_KEY)
    changes = _compare_hashes(lockfile, request) if recorded is None else recorded_inputs.compare(
        recorded, request.spec, request.options
    )  # fmt: skip
    return Staleness(tuple(changes), tuple(_missing(lockfile, request)))


def _missing(lockfile: Lockfile, request: LockRequest) -> Iterator[str]:
    for platform in request.spec.platforms:
        locked = {each.name for each in lockfile.packages if each.platform == platform.platform}
        if platform.platform not in lockfile.platforms:
            continue  # the comparison of the inputs names it
        for each in platform.conda:
            if package_name(each.text) not in locked:
                yield f"{each.place}: {each.text} is not in the lock ({platform.platform})"


def _compare_hashes(lockfile: Lockfile, request: LockRequest) -> Iterator[Change]:
    # A lock of conda-lock says only a hash of its sources, so that nothing more can be told than whether it differs.
    from envtool.solve.content_hash import content_hashes

    complete = with_virtual_packages(request.spec)
    declared = {each.platform: each.virtual_packages for each in complete.platforms}
    theirs, ours = content_hashes(request.spec, None), content_hashes(request.spec, declared)
    place = str(request.spec.paths[0])
    for platform in sorted(theirs.keys() | lockfile.content_hash.keys()):
        recorded = lockfile.content_hash.get(platform)
        if recorded is None or platform not in theirs:
            kind = "added" if recorded is None else "removed"
            yield Change(kind, "platform", recorded and platform, platform if recorded is None else None, place)
        elif recorded not in (theirs[platform], ours[platform]):
            yield Change("changed", "content hash", recorded[:12], ours[platform][:12], place, (platform,))
