"""Attempts to make a prefix: from unpacked packages where that is right, else from archives, all of it proven."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from envtool.artifacts.download import require_sha256
from envtool.errors import PrefixError
from envtool.install.apply import apply
from envtool.install.disk_space import require_room
from envtool.install.distribution_collisions import refuse_collisions
from envtool.install.shared_paths import SharedPathsError
from envtool.install.transaction import Transaction
from envtool.package_cache.capture import find_placements, forget
from envtool.package_cache.materialize import Placement
from envtool.prefix.layout import losses
from envtool.source_builds.wheel_builds import fetch_or_build
from envtool.verify import Inventory, declared_findings, keep_manifests, take_inventory


@dataclass(frozen=True)
class Made:
    """A prefix that was made and read back."""

    transaction: Transaction
    inventory: Inventory
    since_ns: int
    messages: tuple[str, ...] = ()


def make(transaction: Transaction) -> Made:
    """Carry a transaction out; everything is made anew where mending what is there cannot be right."""
    try:
        made = _make(transaction)
    except SharedPathsError:
        made = _make(transaction.anew())
    receipt = transaction.receipt
    if receipt is None or made.transaction.plan.starts_over or not made.inventory.has_altered(receipt.generated):
        return made
    # Somebody altered it, or a newer package brings another one. No archive tells which; only making it does.
    return _make(transaction.anew())


def _make(transaction: Transaction) -> Made:
    request, store = transaction.request, transaction.store
    if request.starts_over and not request.is_from_archives:
        forget(transaction.wanted, store)
    is_reusing = transaction.plan.starts_over and not request.is_from_archives
    placements = _without_shared(transaction, find_placements(transaction.wanted, store)) if is_reusing else []
    try:
        return _attempt(transaction, placements)
    except SharedPathsError as error:
        if not placements:
            raise
        shared = error.packages
    except (PrefixError, FileNotFoundError, FileExistsError):
        if not placements:
            raise
        # Removed by another process meanwhile: archives tell what is right.
        forget([placement.package for placement in placements], store)
        return _attempt(transaction, [])
    return _attempt(transaction, [each for each in placements if _key(each) not in shared])


def _without_shared(transaction: Transaction, placements: Sequence[Placement]) -> list[Placement]:
    # The package cache holds a package with all its paths.
    if not placements:
        return []
    manifests = transaction.manifests
    lost = losses(transaction.wanted, manifests, {})
    shared = {package for (loser, _), winner in lost.items() for package in (loser, winner)}
    return [
        placement
        for placement in placements
        if manifests.is_known(require_sha256(placement.package)) and _key(placement) not in shared
    ]


def _key(placement: Placement) -> tuple[str, str]:
    return placement.package.manager, placement.package.name


def _attempt(transaction: Transaction, placements: Sequence[Placement]) -> Made:
    prefix, wanted, plan = transaction.prefix, transaction.wanted, transaction.plan
    cache, display = transaction.cache, transaction.display
    placed = {placement.package.url for placement in placements}
    needed = [package for package in plan.install if package.url not in placed]
    proven: dict[str, Path] = {}
    if needed:
        proven = fetch_or_build(needed, cache, display, is_offline=transaction.request.is_offline)
    refuse_collisions(wanted, proven, cache)
    require_room(proven.values(), prefix.path, sum(placement.image.size_bytes for placement in placements))
    kept = [package for package in wanted if package not in plan.install]
    keep_manifests(transaction.manifests, kept, cache, display, {})
    prefix.mark_incomplete()
    applied = apply(transaction, placements, proven)
    since_ns = time.time_ns()
    inventory = take_inventory(prefix, wanted, cache, display, applied.known, proven)
    wrong = list(declared_findings(inventory))
    if wrong:
        raise PrefixError(
            f"{prefix.path} was made, but {len(wrong)} of its files are not those of the lock, the first: "
            f"{wrong[0].kind} {wrong[0].what} ({wrong[0].detail})",
            _why_wrong(transaction),
        )
    return Made(transaction, inventory, since_ns, applied.messages)


def _why_wrong(transaction: Transaction) -> str:
    if scripted := transaction.request.link_scripts():
        return f"did a link script of {', '.join(scripted)} change it? then take it out of run-link-scripts"
    return "is something else writing there, or is the disk failing? run envtool create again"
