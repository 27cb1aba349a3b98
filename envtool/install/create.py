"""Make a prefix equal to a lock: prove every archive and wheel first, then install what is missing, remove the rest.

A prefix that is not whole (a create was killed) is emptied and made again from the cache, where everything that had
arrived still is: that converges from any state, which mending in place does not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from envtool.artifacts import link_scripts
from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import FileManifests
from envtool.console import ProgressDisplay
from envtool.errors import PrefixError
from envtool.fetch.archive_cache import Cache
from envtool.install import virtual_package_check
from envtool.install.disk_space import require_room
from envtool.install.distribution_collisions import refuse_collisions
from envtool.install.request import Request
from envtool.install.shared_paths import SharedPathsError
from envtool.install.transaction import archives_needed, carry_out
from envtool.install.untracked_files import extra_files
from envtool.lockfile.conda_lock_v1 import SPECS_KEY, VARIABLES_KEY, LockedPackage, read_json_metadata
from envtool.package_cache.capture import Made
from envtool.package_cache.lookup import find_placings, forget, remember
from envtool.package_cache.materialize import Placement
from envtool.package_cache.store import PackageCache
from envtool.prefix import conda_history
from envtool.prefix.environments_txt import register
from envtool.prefix.installed_packages import conda_packages
from envtool.prefix.layout import Clobber, losses
from envtool.prefix.prefix import Prefix, Receipt, State
from envtool.prefix.transaction_plan import Plan, as_conda_left_it, installed, plan
from envtool.signing.trust import require_signed
from envtool.source_builds.acquire import fetch_packages
from envtool.verify.verify import Inventory, damage, declared_findings, keep_manifests, take_inventory, verify

ENV_DIGEST_VARIABLE = "ENVSERVE_ENV_DIGEST"


@dataclass(frozen=True)
class Outcome:
    """What a create did.

    Args:
        receipt: the prefix as it is now.
        clobbers: the paths that two packages bring, if anything was made.
        link_scripts: the link scripts that were not run, by conda package, if anything was made.
    """

    plan: Plan
    receipt: Receipt
    clobbers: tuple[Clobber, ...] = ()
    link_scripts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def warnings(self) -> list[str]:
        """What there is to know of what was made, a line each."""
        lines = []
        for (winner, loser), group in groupby(self.clobbers, key=lambda each: (each.winner, each.loser)):
            paths = [each.path for each in group]
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            lines.append(
                f"{winner[1]} and {loser[1]} bring the same path: {paths[0]}{more}; that of {winner[1]} is used"
            )
        return [*lines, *(link_scripts.sentence(name, paths) for name, paths in self.link_scripts.items())]


def create(request: Request, prefix: Prefix, cache: Cache, display: ProgressDisplay) -> Outcome:
    """Make a prefix equal to a lock.

    Args:
        prefix: the prefix, absent, empty or made by envtool.
        cache: where proven archives and wheels are kept.

    Raises:
        LockfileError: a package of the lock has no sha256, or a conda package and a wheel bring one distribution.
        PrefixError: the directory holds something that is not ours, or the lock has nothing for the platform.
        VirtualPackageError: this machine lacks what the lock needs.
        SignatureError: a channel has to be signed, and is not; the prefix was not touched.
        NetworkError, HashMismatchError: an archive could not be had or proven; the prefix was not touched.
    """
    wanted = request.packages()
    virtual_package_check.require(wanted)
    with prefix.locked():
        todo, receipt = _plan(request, wanted, prefix, cache, display)
        if receipt is not None and todo.is_empty:
            return Outcome(todo, receipt)
        if not request.is_vouched:
            require_signed(wanted, cache, display, is_offline=request.is_offline)
        before = [] if todo.starts_over else [each.description for each in conda_packages(prefix.path)]
        store = PackageCache(cache)
        try:
            inventory, began_ns = _make(request, todo, prefix, cache, store, display)
        except SharedPathsError:
            todo, before = plan(wanted, None), []
            inventory, began_ns = _make(request, todo, prefix, cache, store, display)
        if receipt is not None and not todo.starts_over and inventory.has_altered(receipt.generated):
            # Somebody altered it, or a newer package brings another one. No archive tells which; only making it does.
            todo, before = plan(wanted, None), []
            inventory, began_ns = _make(request, todo, prefix, cache, store, display)
        after = _receipt(request, wanted, inventory)
        _note(request, prefix, after, before)
        if not request.is_from_archives:
            with display.task("keep what was unpacked"):
                made = Made(prefix.path, inventory.declared, inventory.entries, began_ns, inventory.layout.shared)
                remember(made, wanted, store)
        return Outcome(todo, after, inventory.layout.clobbers, link_scripts.link_scripts(inventory.declared))


def preview(request: Request, prefix: Prefix, cache: Cache, display: ProgressDisplay) -> Plan:
    """What `create` would do; nothing is downloaded or changed."""
    prefix.refuse_foreign()
    return _plan(request, request.packages(), prefix, cache, display)[0]


def _plan(
    request: Request, wanted: Sequence[LockedPackage], prefix: Prefix, cache: Cache, display: ProgressDisplay
) -> tuple[Plan, Receipt | None]:
    if request.starts_over or prefix.state() is not State.WHOLE:
        return plan(wanted, None), None
    receipt = prefix.receipt()
    conda = conda_packages(prefix.path)
    there = as_conda_left_it(receipt, conda)
    if request.repairs and plan(wanted, receipt).is_empty:
        return plan(wanted, there, damage(verify(prefix, wanted, cache, display))), receipt
    todo = plan(wanted, there)
    if todo.is_empty or todo.starts_over:
        return todo, receipt
    return replace(todo, delete=extra_files(prefix, conda, receipt.packages)), receipt


def _make(
    request: Request, todo: Plan, prefix: Prefix, cache: Cache, store: PackageCache, display: ProgressDisplay
) -> tuple[Inventory, int]:
    wanted = request.packages()
    if request.starts_over and not request.is_from_archives:
        forget(wanted, store)
    is_reusing = todo.starts_over and not request.is_from_archives
    placings = find_placings(wanted, store) if is_reusing else []
    placings = _without_shared(placings, wanted, FileManifests(cache.root)) if placings else []
    try:
        return _install(request, todo, placings, prefix, cache, display)
    except SharedPathsError as error:
        if not placings:
            raise
        placings = [each for each in placings if (each.package.manager, each.package.name) not in error.packages]
        return _install(request, todo, placings, prefix, cache, display)
    except (PrefixError, FileNotFoundError, FileExistsError):
        if not placings:
            raise
        # Removed by another process meanwhile: archives tell what is right.
        forget([each.package for each in placings], store)
        return _install(request, todo, [], prefix, cache, display)


def _without_shared(
    placings: Sequence[Placement], wanted: Sequence[LockedPackage], manifests: FileManifests
) -> list[Placement]:
    # An image is of a package that has all its paths.
    lost = losses(wanted, manifests, {})
    shared = {package for (loser, _), winner in lost.items() for package in (loser, winner)}
    return [
        each
        for each in placings
        if manifests.is_known(require_sha256(each.package)) and (each.package.manager, each.package.name) not in shared
    ]


def _install(
    request: Request, todo: Plan, placings: Sequence[Placement], prefix: Prefix, cache: Cache, display: ProgressDisplay
) -> tuple[Inventory, int]:
    wanted = request.packages()
    placed = {each.package.url for each in placings}
    needed = [each for each in archives_needed(wanted, todo) if each.url not in placed]
    proven = fetch_packages(needed, cache, display, is_offline=request.is_offline) if needed else {}
    refuse_collisions(wanted, proven, cache)
    require_room(proven.values(), prefix.path, sum(each.image.size_bytes for each in placings))
    manifests = FileManifests(cache.root)
    keep_manifests(manifests, [each for each in wanted if each not in todo.install], cache, display, {})
    prefix.mark_incomplete()
    known = carry_out(prefix, todo, wanted, placings, proven, request.platform, manifests, display)
    began_ns = time.time_ns()
    inventory = take_inventory(prefix, wanted, cache, display, known, proven)
    _require_whole(inventory, prefix)
    return inventory, began_ns


def _require_whole(inventory: Inventory, prefix: Prefix) -> None:
    wrong = list(declared_findings(inventory))
    if wrong:
        raise PrefixError(
            f"{prefix.path} was made, but {len(wrong)} of its files are not those of the lock, the first: "
            f"{wrong[0].kind} {wrong[0].what} ({wrong[0].detail})",
            "is something else writing there, or is the disk failing? run envtool create again",
        )


def _receipt(request: Request, wanted: Sequence[LockedPackage], inventory: Inventory) -> Receipt:
    return Receipt(
        platform=request.platform,
        categories=request.categories,
        packages=tuple(installed(each) for each in wanted),
        env_digest=inventory.env_digest,
        generated=inventory.generated(),
    )


def _note(request: Request, prefix: Prefix, receipt: Receipt, before: Sequence[str]) -> None:
    variables = read_json_metadata(request.lockfile, VARIABLES_KEY) or {}
    conda_history.set_variables(prefix.meta, {**variables, ENV_DIGEST_VARIABLE: receipt.env_digest})
    after = [each.description for each in conda_packages(prefix.path)]
    conda_history.write_history(prefix.meta, request.command, before, after, _requested(request))
    if request.is_frozen:
        conda_history.freeze(prefix.meta)
    prefix.complete(receipt)
    if request.is_listed:
        register(prefix.path)


def _requested(request: Request) -> Sequence[str]:
    specs: dict[str, list[str]] = read_json_metadata(request.lockfile, SPECS_KEY) or {}
    if request.platform in specs:
        return specs[request.platform]
    # A lock of another tool does not say what was asked for: whatever nothing else needs was.
    packages = [each for each in request.packages() if each.manager == "conda"]
    needed = {name for each in packages for name in each.dependencies}
    return [f"{each.name}={each.version}" for each in packages if each.name not in needed]
