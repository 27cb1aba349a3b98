"""A request of a user to `envtool create`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from envtool.errors import PrefixError
from envtool.lockfile.conda_lock_v1 import LINK_SCRIPTS_KEY, read_json_metadata
from envtool.lockfile.model import LockedPackage, Lockfile
from envtool.prefix.installed_packages import record_names
from envtool.prefix.prefix import Prefix, Receipt, State
from envtool.prefix.transaction_plan import plan


@dataclass(frozen=True)
class Request:
    """What is to be made.

    Args:
        is_vouched: whether a signature over the whole lock was checked already.
        is_from_archives: whether everything is unpacked and compiled, also what the cache holds unpacked.
        is_for_elsewhere: whether another machine will run it, so that what this one lacks does not matter.
    """

    lockfile: Lockfile
    platform: str
    categories: tuple[str, ...]
    command: str
    starts_over: bool = False
    repairs: bool = False
    is_offline: bool = False
    is_frozen: bool = False
    is_listed: bool = True
    is_vouched: bool = False
    is_from_archives: bool = False
    is_for_elsewhere: bool = False

    def packages(self) -> tuple[LockedPackage, ...]:
        """What the lock states for the platform and categories. Raises PrefixError if the lock has nothing for the
        platform or a category."""
        return self._packages

    @cached_property
    def _packages(self) -> tuple[LockedPackage, ...]:
        if self.platform not in self.lockfile.platforms:
            raise PrefixError(
                f"the lock has nothing for {self.platform}; it has {', '.join(self.lockfile.platforms)}",
                f"add {self.platform} to the platforms of environment.yml and lock again",
            )
        if not self.lockfile.select(self.platform, sorted({each.category for each in self.lockfile.packages})):
            raise PrefixError(
                f"the lock lists {self.platform} and has no package of it",
                "a merge may have lost them; lock again: envtool lock",
            )
        known = {each.category for each in self.lockfile.packages} | {"main"}
        unknown = sorted(set(self.categories) - known)
        if unknown:
            raise PrefixError(f"the lock has no category {', '.join(unknown)}", f"it has {', '.join(sorted(known))}")
        return self.lockfile.select(self.platform, self.categories)

    def link_scripts(self) -> tuple[str, ...]:
        """The conda packages whose link scripts the lock allows to run."""
        allowed = read_json_metadata(self.lockfile, LINK_SCRIPTS_KEY) or []
        return tuple(sorted({each.name for each in self.packages() if each.manager == "conda"}.intersection(allowed)))

    def fulfilled(self, prefix: Prefix) -> Receipt | None:
        """The receipt of a prefix that is up to date already, by its own notes; None when there is something to do.

        A few milliseconds: neither py-rattler nor a download is needed to find out that nothing has to be done. conda's
        notes are looked at by their names alone, which tell what it installed, updated or removed.
        """
        if self.starts_over or self.repairs or prefix.state() is not State.WHOLE:
            return None
        packages, receipt = self.packages(), prefix.receipt()
        records = {f"{each.name}-{each.version}-{each.build_string}" for each in packages if each.manager == "conda"}
        is_same = plan(packages, receipt).is_empty and receipt.link_scripts == self.link_scripts()
        return receipt if is_same and record_names(prefix.path) == records else None
