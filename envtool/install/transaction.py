"""A change of a prefix, decided before anything of it is touched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from envtool.artifacts.file_manifest import FileManifests
from envtool.console import ProgressDisplay
from envtool.fetch.archive_cache import Cache
from envtool.install.request import Plan, RepairPlan, Request, as_conda_left_it, plan
from envtool.lockfile.model import LockedPackage
from envtool.package_cache.store import PackageCache
from envtool.prefix.bytecode import source_of
from envtool.prefix.conda_meta import conda_packages, wheel_files
from envtool.prefix.prefix import Prefix, Receipt, State
from envtool.prefix.scan import walk
from envtool.verify import verify


@dataclass(frozen=True)
class Transaction:
    """A change of a prefix."""

    request: Request
    prefix: Prefix
    cache: Cache
    display: ProgressDisplay
    wanted: tuple[LockedPackage, ...]
    plan: Plan
    receipt: Receipt | None = None  # the notes of the prefix, None unless it is whole and may be kept
    before: tuple[str, ...] = ()  # its conda packages as conda's history names them

    @cached_property
    def manifests(self) -> FileManifests:
        """What archives and wheels are known to hold."""
        return FileManifests(self.cache.root)

    @cached_property
    def store(self) -> PackageCache:
        """The unpacked packages of this user."""
        return PackageCache(self.cache)

    def anew(self) -> Transaction:
        """The same change, with everything made anew."""
        return replace(self, plan=plan(self.wanted, None))


def decide(request: Request, prefix: Prefix, cache: Cache, display: ProgressDisplay) -> Transaction:
    """Decide what has to change so that a prefix equals a lock; nothing is downloaded or changed."""
    wanted = request.packages
    anew = Transaction(request, prefix, cache, display, wanted, plan(wanted, None))
    if request.starts_over or prefix.state() is not State.WHOLE:
        return anew
    receipt, conda = prefix.receipt(), conda_packages(prefix.path)
    there = as_conda_left_it(receipt, conda)
    if request.repairs and plan(wanted, receipt).is_empty:
        found = verify(prefix, wanted, cache, display).findings
        generated = [finding.what for finding in found if finding.kind != "extra" and not finding.package]
        damage = RepairPlan(
            packages={finding.package for finding in found if finding.package},
            extra=tuple(finding.what for finding in found if finding.kind == "extra" and finding.is_file),
            is_byte_code=any(source_of(path) for path in generated),
            is_generated=any(not source_of(path) for path in generated),
        )
        todo = plan(wanted, there, damage)
    else:
        todo = plan(wanted, there)
        if not todo.is_empty and not todo.starts_over:
            # By the notes of the prefix alone, so that a dry run can tell; what is in the files is not looked at.
            brought = {path for package in conda for path in package.files}
            # pip may have installed others, whose files are as untracked as any.
            brought.update(wheel_files(prefix, [each.name for each in receipt.packages if each.manager == "pip"]))
            names = (name for name, _ in walk(str(prefix.path)))
            extra = sorted(name for name in names if name not in brought and source_of(name) not in brought)
            todo = todo._replace(delete=tuple(extra))
    scripted = request.link_scripts()
    if receipt.link_scripts != scripted or (scripted and not todo.is_empty):
        return anew  # what scripts did cannot be undone, and they may do another thing the second time
    return replace(anew, plan=todo, receipt=receipt, before=tuple(package.description for package in conda))
