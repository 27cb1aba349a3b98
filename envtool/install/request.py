"""A request to `envtool create`, and the plan of what has to change so that a prefix equals a lock: a pure decision."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from envtool.errors import PrefixError
from envtool.lockfile.conda_lock_v1 import LINK_SCRIPTS_KEY, read_json_metadata
from envtool.lockfile.model import LockedPackage, Lockfile
from envtool.prefix.conda_meta import CondaPackage, record_names
from envtool.prefix.prefix import Installed, Prefix, Receipt, State


class Plan(NamedTuple):
    """What has to change in a prefix."""

    install: tuple[LockedPackage, ...]
    remove: tuple[Installed, ...] = ()
    delete: tuple[str, ...] = ()
    recompiles: bool = False
    starts_over: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.install or self.remove or self.delete or self.recompiles or self.starts_over)

    def installs(self, manager: str) -> tuple[LockedPackage, ...]:
        """The packages of one manager that are to be installed."""
        return tuple(each for each in self.install if each.manager == manager)

    def removes(self, manager: str) -> tuple[Installed, ...]:
        """The packages of one manager that are to be removed."""
        return tuple(each for each in self.remove if each.manager == manager)


class RepairPlan(NamedTuple):
    """What a verification found to be wrong with a prefix."""

    packages: Collection[tuple[str, str]] = ()
    extra: tuple[str, ...] = ()
    is_byte_code: bool = False
    # Another generated file (a script, an installer's note): which package it came with is not known, and what it has
    # to be is in no archive.
    is_generated: bool = False


def plan(wanted: Sequence[LockedPackage], receipt: Receipt | None, damage: RepairPlan | None = None) -> Plan:
    """Decide what has to change."""
    if receipt is None:
        return Plan(tuple(wanted), starts_over=True)
    damage = damage or RepairPlan()
    there = set(receipt.packages)
    install = tuple(
        each for each in wanted if installed(each) not in there or (each.manager, each.name) in damage.packages
    )
    remove = tuple(sorted(there - {installed(each) for each in wanted}, key=lambda each: (each.manager, each.name)))
    # Another Python means another site-packages: every wheel and all byte-code would have to move. A damaged one
    # cannot be trusted to compile.
    if damage.is_generated or any(each.manager == "conda" and each.name == "python" for each in install):
        return Plan(tuple(wanted), remove, starts_over=True)
    return Plan(install, remove, damage.extra, recompiles=damage.is_byte_code)


def installed(package: LockedPackage) -> Installed:
    """A package of the lock as a receipt notes it."""
    return Installed(package.manager, package.name, package.version, package.sha256 or "")


def as_conda_left_it(receipt: Receipt, records: Sequence[CondaPackage]) -> Receipt:
    """A receipt with the conda packages that are there now: conda may have been at work since it was written."""
    noted = {each.sha256: each for each in receipt.packages if each.manager == "conda"}
    conda = [noted.get(each.sha256) or Installed("conda", each.name, each.version, each.sha256) for each in records]
    return replace(receipt, packages=(*conda, *(each for each in receipt.packages if each.manager != "conda")))


@dataclass(frozen=True)
class Request:
    """What is to be made."""

    lockfile: Lockfile
    platform: str
    categories: tuple[str, ...]
    command: str
    starts_over: bool = False
    repairs: bool = False
    is_offline: bool = False
    is_frozen: bool = False
    is_listed: bool = True
    is_vouched: bool = False  # whether a signature over the whole lock was checked already
    is_from_archives: bool = False  # whether everything is unpacked and compiled, also what the cache holds unpacked
    is_for_elsewhere: bool = False  # whether another machine will run it, so that what this one lacks does not matter

    @cached_property
    def packages(self) -> tuple[LockedPackage, ...]:
        """What the lock states for the platform and categories. Raises PrefixError if it has nothing for one."""
        if self.platform not in self.lockfile.platforms:
            message = f"the lock has nothing for {self.platform}; it has {', '.join(self.lockfile.platforms)}"
            raise PrefixError(message, f"add {self.platform} to the platforms of environment.yml and lock again")
        if not self.lockfile.select(self.platform, sorted({each.category for each in self.lockfile.packages})):
            hint = "a merge may have lost them; lock again: envtool lock"
            raise PrefixError(f"the lock lists {self.platform} and has no package of it", hint)
        known = {package.category for package in self.lockfile.packages} | {"main"}
        unknown = sorted(set(self.categories) - known)
        if unknown:
            raise PrefixError(f"the lock has no category {', '.join(unknown)}", f"it has {', '.join(sorted(known))}")
        return self.lockfile.select(self.platform, self.categories)

    def link_scripts(self) -> tuple[str, ...]:
        """The conda packages whose link scripts the lock allows to run."""
        allowed = read_json_metadata(self.lockfile, LINK_SCRIPTS_KEY) or []
        return tuple(sorted({each.name for each in self.packages if each.manager == "conda"}.intersection(allowed)))

    def fulfilled(self, prefix: Prefix) -> Receipt | None:
        """The receipt of a prefix that is up to date already, None when there is something to do. It takes
        milliseconds, by the prefix's own notes and the names alone of conda's, which tell what it installed, updated or
        removed."""
        if self.starts_over or self.repairs or prefix.state() is not State.WHOLE:
            return None
        packages, receipt = self.packages, prefix.receipt()
        records = {f"{each.name}-{each.version}-{each.build_string}" for each in packages if each.manager == "conda"}
        is_same = plan(packages, receipt).is_empty and receipt.link_scripts == self.link_scripts()
        return receipt if is_same and receipt.env_digest and record_names(prefix.path) == records else None
