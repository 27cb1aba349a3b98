"""A prefix made equal to a lock: every archive and wheel is proven first, then what is missing is installed. A prefix
that is not whole (a create was killed) is emptied and made again from the cache: that converges from any state."""

from __future__ import annotations

import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import FileManifests
from envtool.console import ProgressDisplay
from envtool.errors import ArchiveError, PrefixError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.install import link_scripts, preconditions
from envtool.install.apply import apply
from envtool.install.cuda import cuda_of, detect_gpu, judge
from envtool.install.request import Plan, RepairPlan, Request, as_conda_left_it, installed, plan
from envtool.install.shared_paths import SharedPathsError
from envtool.lockfile.conda_lock_v1 import SPECS_KEY, VARIABLES_KEY, LockedPackage, Lockfile, read_json_metadata
from envtool.package_cache import unpacked
from envtool.package_cache.store import PackageCache
from envtool.package_cache.unpacked import Placement, find_placements, forget
from envtool.prefix import conda_meta
from envtool.prefix.bytecode import source_of
from envtool.prefix.conda_meta import conda_packages, wheel_files
from envtool.prefix.layout import Clobber, losses
from envtool.prefix.prefix import ENV_DIGEST_VARIABLE, Prefix, Receipt, State, register
from envtool.prefix.rattler import detect_virtual_packages
from envtool.prefix.scan import Entry, walk
from envtool.signing.trust import require_signed
from envtool.source_builds.wheel_builds import fetch_or_build
from envtool.verify import Finding, Inventory, VerifyReport, declared_findings, keep_manifests, take_inventory, verify


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
    if receipt.env_digest is None:
        return anew  # an image's tree, with the path that it has there in its files
    return replace(anew, plan=todo, receipt=receipt, before=tuple(package.description for package in conda))


class Made(NamedTuple):
    """A prefix that was made and read back."""

    transaction: Transaction
    inventory: Inventory
    since_ns: int
    messages: tuple[str, ...] = ()


def _make_right(transaction: Transaction) -> Made:
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
    placements = find_placements(transaction.wanted, store) if is_reusing else []
    if placements:
        # The package cache holds a package with all its paths.
        manifests = transaction.manifests
        lost = losses(transaction.wanted, manifests, {})
        sharing = {package for (loser, _), winner in lost.items() for package in (loser, winner)}
        known = [each for each in placements if manifests.is_known(require_sha256(each.package))]
        placements = [each for each in known if _key(each) not in sharing]
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
    preconditions.refuse_collisions(wanted, proven, cache)
    preconditions.require_room(
        proven.values(), prefix.path, sum(placement.image.size_bytes for placement in placements)
    )
    kept = [package for package in wanted if package not in plan.install]
    keep_manifests(transaction.manifests, kept, cache, display, {})
    prefix.mark_incomplete()
    known, messages = apply(transaction, placements, proven)
    since_ns = time.time_ns()
    inventory = take_inventory(prefix, wanted, cache, display, known, proven)
    wrong = list(declared_findings(inventory))
    if wrong:
        hint = "is something else writing there, or is the disk failing? run envtool create again"
        if scripted := transaction.request.link_scripts():
            hint = f"did a link script of {', '.join(scripted)} change it? then take it out of run-link-scripts"
        raise PrefixError(
            f"{prefix.path} was made, but {len(wrong)} of its files are not those of the lock, the first: "
            f"{wrong[0].kind} {wrong[0].what} ({wrong[0].detail})",
            hint,
        )
    return Made(transaction, inventory, since_ns, messages)


@dataclass(frozen=True)
class Outcome:
    """What a create did."""

    plan: Plan
    receipt: Receipt
    clobbers: tuple[Clobber, ...] = ()
    link_scripts: Mapping[str, Sequence[str]] = field(default_factory=dict)  # those that were not run, by package
    scripts_run: Sequence[str] = ()
    messages: Sequence[str] = ()
    cuda: str | None = None  # why the CUDA of the lock may not run on this machine
    twice: Sequence[str] = ()  # the Python distributions that two conda packages bring

    def notes(self) -> list[str]:
        """What was done beside linking, a line each."""
        ran = [f"ran {', '.join(self.scripts_run)}: {link_scripts.confinement()}"] if self.scripts_run else []
        return [*ran, *self.messages]

    def warnings(self) -> list[str]:
        """What there is to know of what was made, a line each."""
        lines = []
        for (winner, loser), group in groupby(self.clobbers, key=lambda clobber: (clobber.winner, clobber.loser)):
            paths = [clobber.path for clobber in group]
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            both = f"{winner[1]} and {loser[1]} bring the same path"
            lines.append(f"{both}: {paths[0]}{more}; that of {winner[1]} is used")
        lines += [*self.twice, *([self.cuda] if self.cuda else [])]
        return [*lines, *(link_scripts.sentence(name, paths) for name, paths in self.link_scripts.items())]


def create(request: Request, prefix: Prefix, cache: Cache, display: ProgressDisplay) -> Outcome:
    """Make a prefix, absent, empty or made by envtool, equal to a lock. Raises, before it is touched: LockfileError if
    a package has no sha256 or two bring one distribution, PrefixError if the directory is not ours or the lock has
    nothing for the platform, VirtualPackageError if this machine lacks something, SignatureError if a channel has to be
    signed and is not, NetworkError or HashMismatchError if an archive could not be downloaded or proven."""
    if not request.is_for_elsewhere:
        preconditions.require(request.packages)
    with prefix.locked():
        transaction = decide(request, prefix, cache, display)
        if transaction.receipt is not None and transaction.plan.is_empty:
            return Outcome(transaction.plan, transaction.receipt)
        if not request.is_vouched:
            require_signed(transaction.wanted, cache, display, is_offline=request.is_offline)
        made = _make_right(transaction)
        receipt = complete(made)
    cuda = cuda_of(made.transaction.wanted)
    verdict = judge(cuda, detect_gpu(detect_virtual_packages()))[1] if cuda else None
    skipped, run = link_scripts.split(link_scripts.link_scripts(made.inventory.declared), receipt.link_scripts)
    return Outcome(
        made.transaction.plan, receipt, made.inventory.layout.clobbers, skipped, run, made.messages, verdict or None,
        preconditions.brought_twice(made.inventory.declared),
    )  # fmt: skip


def preview(request: Request, prefix: Prefix, cache: Cache, display: ProgressDisplay) -> Plan:
    """What `create` would do; nothing is downloaded or changed."""
    prefix.refuse_foreign()
    return decide(request, prefix, cache, display).plan


@dataclass(frozen=True)
class Estimate:
    """What carrying out a plan will take."""

    downloads: int
    download_bytes: int
    unknown: int  # those of unknown size
    disk_bytes: int
    free_bytes: int


def estimate(
    plan: Plan, wanted: Sequence[LockedPackage], place: Path, cache: Cache, sizes: Mapping[str, int | None]
) -> Estimate:
    """Foresee what carrying out a plan will take; nothing is downloaded."""
    placements = find_placements(wanted, PackageCache(cache)) if plan.starts_over else []
    known = {placement.package.url: placement.image.size_bytes for placement in placements}
    for each in plan.install:
        path = cache.path(Wanted(each.file_name, require_sha256(each), ()))
        with suppress(OSError, ArchiveError, zipfile.BadZipFile):  # one that is damaged will be fetched anew
            known.setdefault(each.url, preconditions.unpacked_bytes(path))
    missing = [each.url for each in plan.install if each.url not in known]
    download_bytes = sum(sizes.get(url) or 0 for url in missing)
    existing = next(each for each in (place, *place.parents) if each.exists())
    return Estimate(
        downloads=len(missing),
        download_bytes=download_bytes,
        unknown=sum(sizes.get(url) is None for url in missing),
        disk_bytes=preconditions.with_overhead(sum(known.values()) + download_bytes * preconditions.UNPACKED_FACTOR),
        free_bytes=shutil.disk_usage(existing).free,
    )


def complete(made: Made) -> Receipt:
    """Write the notes of a prefix, its receipt last, and keep what was unpacked."""
    transaction, inventory = made.transaction, made.inventory
    request, prefix = transaction.request, transaction.prefix
    receipt = Receipt(
        platform=request.platform, categories=request.categories,
        packages=tuple(installed(package) for package in transaction.wanted), env_digest=inventory.env_digest,
        generated=inventory.generated(), link_scripts=request.link_scripts(),
    )  # fmt: skip
    variables = read_json_metadata(request.lockfile, VARIABLES_KEY) or {}
    conda_meta.set_variables(prefix.meta, {**variables, ENV_DIGEST_VARIABLE: inventory.env_digest})
    before = () if transaction.plan.starts_over else transaction.before
    after = [package.description for package in conda_packages(prefix.path)]
    conda_meta.write_history(prefix.meta, request.command, before, after, _requested(transaction))
    if request.is_frozen:
        conda_meta.freeze(prefix.meta)
    prefix.complete(receipt)
    if request.is_listed:
        register(prefix.path)
    if not request.is_from_archives:
        declared, entries, shared = inventory.declared, inventory.entries, inventory.layout.shared
        with transaction.display.task("keep what was unpacked"):
            content = unpacked.Made(prefix.path, declared, entries, made.since_ns, shared)
            unpacked.remember(content, transaction.wanted, transaction.store)
    return receipt


def _requested(transaction: Transaction) -> Sequence[str]:
    specs: dict[str, list[str]] = read_json_metadata(transaction.request.lockfile, SPECS_KEY) or {}
    if transaction.request.platform in specs:
        return specs[transaction.request.platform]
    # A lock of another tool does not say what was asked for: whatever nothing else needs was.
    packages = [package for package in transaction.wanted if package.manager == "conda"]
    needed = {name for package in packages for name in package.dependencies}
    return [f"{package.name}={package.version}" for package in packages if package.name not in needed]


_SHOWN_BYTES = 16
_CHUNK_BYTES = 1 << 20


def compare_with_rebuilt(
    prefix: Prefix, lockfile: Lockfile, report: VerifyReport, cache: Cache, display: ProgressDisplay
) -> VerifyReport:
    """Add to a verification what differs from a second prefix, made from the same lock. Raises what `create` raises."""
    receipt = prefix.require_whole()
    # Beside the first, since it takes as much room; with another length of path, since that is what differs elsewhere.
    with tempfile.TemporaryDirectory(prefix=f".{prefix.path.name}-", dir=prefix.path.parent) as scratch:
        second = Prefix(Path(scratch))
        request = Request(
            lockfile, receipt.platform, receipt.categories, "envtool verify --rebuild", is_listed=False,
            is_from_archives=True,
        )  # fmt: skip
        create(request, second, cache, display)
        locked = request.packages
        first_entries = take_inventory(prefix, locked, cache, display).entries
        second_entries = take_inventory(second, locked, cache, display).entries
        known = {each.what for each in report.findings}
        found = [each for each in _differences(prefix, first_entries, second, second_entries) if each.what not in known]
    return replace(report, findings=(*report.findings, *found))


def _differences(
    first: Prefix, first_entries: Mapping[str, Entry], second: Prefix, second_entries: Mapping[str, Entry]
) -> Iterator[Finding]:
    for path in sorted(first_entries.keys() | second_entries.keys()):
        here, there = first_entries.get(path), second_entries.get(path)
        if here is None:
            yield Finding("missing", path, "the rebuilt environment has it")
        elif there is None:
            yield Finding("extra", path, "the rebuilt environment does not have it")
        elif here._replace(size_bytes=0) != there._replace(size_bytes=0):
            yield Finding("mismatched", path, first_difference(first.path / path, second.path / path))


def first_difference(first: Path, second: Path) -> str:
    """Where two files differ first, with the bytes of both, for people."""
    if first.is_symlink() or second.is_symlink():
        return "a link that leads elsewhere in the rebuilt environment"
    offset = 0
    with first.open("rb") as one, second.open("rb") as other:
        while True:
            here, there = one.read(_CHUNK_BYTES), other.read(_CHUNK_BYTES)
            if here != there:
                at = next((i for i, (a, b) in enumerate(zip(here, there)) if a != b), min(len(here), len(there)))
                shown = here[at : at + _SHOWN_BYTES].hex(" "), there[at : at + _SHOWN_BYTES].hex(" ")
                return f"differs from the rebuilt file at byte {offset + at}: {shown[0]} against {shown[1]}"
            if not here:
                return "has another mode than the rebuilt file"
            offset += len(here)
