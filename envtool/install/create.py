"""A prefix made equal to a lock: every archive and wheel is proven first, then what is missing is installed.

A prefix that is not whole (a create was killed) is emptied and made again from the cache, where everything that had
arrived still is: that converges from any state, which mending in place does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from envtool.artifacts.link_scripts import link_scripts as scripts_of
from envtool.artifacts.link_scripts import sentence, split
from envtool.console import ProgressDisplay
from envtool.fetch.archive_cache import Cache
from envtool.install.attempt import make
from envtool.install.cuda import cuda_of, detect_gpu, judge
from envtool.install.distribution_collisions import brought_twice
from envtool.install.link_script_runs import confinement
from envtool.install.record import complete
from envtool.install.request import Plan, Request
from envtool.install.transaction import decide
from envtool.install.virtual_package_check import require
from envtool.prefix.layout import Clobber
from envtool.prefix.prefix import Prefix, Receipt
from envtool.prefix.rattler import detect_virtual_packages
from envtool.signing.trust import require_signed


@dataclass(frozen=True)
class Outcome:
    """What a create did.

    Args:
        link_scripts: those that were not run, by package.
        scripts_run: those that were.
        messages: what they left for people to read.
        twice: the Python distributions that two conda packages bring.
        cuda: why the CUDA of the lock may not run on this machine.
    """

    plan: Plan
    receipt: Receipt
    clobbers: tuple[Clobber, ...] = ()
    link_scripts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scripts_run: Sequence[str] = ()
    messages: Sequence[str] = ()
    cuda: str | None = None
    twice: Sequence[str] = ()

    def notes(self) -> list[str]:
        """What was done beside linking, a line each."""
        ran = [f"ran {', '.join(self.scripts_run)}: {confinement()}"] if self.scripts_run else []
        return [*ran, *self.messages]

    def warnings(self) -> list[str]:
        """What there is to know of what was made, a line each."""
        lines = []
        for (winner, loser), group in groupby(self.clobbers, key=lambda clobber: (clobber.winner, clobber.loser)):
            paths = [clobber.path for clobber in group]
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            lines.append(
                f"{winner[1]} and {loser[1]} bring the same path: {paths[0]}{more}; that of {winner[1]} is used"
            )
        lines += [*self.twice, *([self.cuda] if self.cuda else [])]
        return [*lines, *(sentence(name, paths) for name, paths in self.link_scripts.items())]


def create(request: Request, prefix: Prefix, cache: Cache, display: ProgressDisplay) -> Outcome:
    """Make a prefix, absent, empty or made by envtool, equal to a lock.

    Raises:
        LockfileError: a package of the lock has no sha256, or a conda package and a wheel bring one distribution.
        PrefixError: the directory holds something that is not ours, or the lock has nothing for the platform.
        VirtualPackageError: this machine lacks what the lock needs.
        SignatureError: a channel has to be signed, and is not; the prefix was not touched.
        NetworkError, HashMismatchError: an archive could not be downloaded or proven; the prefix was not touched.
    """
    if not request.is_for_elsewhere:
        require(request.packages())
    with prefix.locked():
        transaction = decide(request, prefix, cache, display)
        if transaction.receipt is not None and transaction.plan.is_empty:
            return Outcome(transaction.plan, transaction.receipt)
        if not request.is_vouched:
            require_signed(transaction.wanted, cache, display, is_offline=request.is_offline)
        made = make(transaction)
        receipt = complete(made)
    cuda = cuda_of(made.transaction.wanted)
    verdict = judge(cuda, detect_gpu(detect_virtual_packages()))[1] if cuda else None
    skipped, run = split(scripts_of(made.inventory.declared), receipt.link_scripts)
    return Outcome(
        made.transaction.plan, receipt, made.inventory.layout.clobbers, skipped, run, made.messages, verdict or None,
        brought_twice(made.inventory.declared),
    )  # fmt: skip


def preview(request: Request, prefix: Prefix, cache: Cache, display: ProgressDisplay) -> Plan:
    """What `create` would do; nothing is downloaded or changed."""
    prefix.refuse_foreign()
    return decide(request, prefix, cache, display).plan
