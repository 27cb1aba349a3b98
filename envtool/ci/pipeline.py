"""The reproducibility check of a CI server: is the lock fresh, can it be downloaded, does it give the same files twice?

Every step runs that can, so that one run tells everything; the first that fails decides the exit code. There are
three ways to fail, on which different people act: a stale lock is the author's, an unreachable package the network's
(run it again), an environment that differs is a finding.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from envtool.atomic_files import write_atomically
from envtool.ci import second_judge
from envtool.errors import EnvtoolError, HashMismatchError, NetworkError, ProcessError
from envtool.export.sbom import BomRequest, bill_of_materials
from envtool.install.create import create
from envtool.install.rebuild import compare_with_rebuilt
from envtool.solve.staleness import check
from envtool.verify.findings import Finding, as_junit
from envtool.verify.verify import verify

if TYPE_CHECKING:
    from envtool.console import ProgressDisplay
    from envtool.fetch.archive_cache import Cache
    from envtool.install.request import Request
    from envtool.lockfile.conda_lock_v1 import Lockfile
    from envtool.prefix.prefix import Prefix
    from envtool.solve.lock import LockRequest

_SHOWN = 20


class Verdict(enum.Enum):
    """What a step, or all of them together, came to."""

    GOOD = "good"
    STALE = "stale"
    UNREACHABLE = "unreachable"
    IRREPRODUCIBLE = "irreproducible"
    VULNERABLE = "vulnerable"
    ERROR = "error"
    SKIPPED = "skipped"

    @property
    def exit_code(self) -> int:
        """The exit code of `envtool ci`; 10 and above, since 1 to 3 have their meanings everywhere."""
        return {"stale": 10, "unreachable": 11, "irreproducible": 12, "vulnerable": 13, "error": 3}.get(self.value, 0)


@dataclass(frozen=True)
class Step:
    """One step."""

    name: str
    verdict: Verdict
    elapsed_s: float = 0.0
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class CiReport:
    """What all steps came to."""

    steps: tuple[Step, ...]
    env_digest: str | None
    package_count: int

    @property
    def verdict(self) -> Verdict:
        """That of the first step that failed."""
        failed = [each.verdict for each in self.steps if each.verdict.exit_code]
        return failed[0] if failed else Verdict.GOOD


@dataclass(frozen=True)
class Job:
    """What is to be checked.

    Args:
        database: of vulnerabilities, where the lock shall be audited.
        ignored: an OpenVEX file.
    """

    freshness: LockRequest
    lockfile: Lockfile
    request: Request
    prefix: Prefix
    output: Path
    is_rebuilt: bool
    name: str
    database: Path | None = None
    ignored: Path | None = None
    level: str = "low"


def run(job: Job, cache: Cache, display: ProgressDisplay) -> CiReport:
    """Run every step that can be run; nothing that a step raises on purpose ends the others."""
    steps = [_attempt("the lock is fresh", lambda: _freshness(job))]
    made = _attempt(
        "every package can be downloaded, and the environment be made", lambda: _create(job, cache, display)
    )
    steps.append(made)
    twice = ", and the same when made twice" if job.is_rebuilt else ""
    same = f"every file is as locked{twice}"
    if made.verdict is Verdict.GOOD:
        steps.append(_attempt(same, lambda: _verify(job, cache, display)))
    else:
        steps.append(Step(same, Verdict.SKIPPED))
    steps.append(_attempt("the bill of materials is written", lambda: _write_sbom(job)))
    if job.database is not None:
        steps.append(_attempt("no package has a known vulnerability", lambda: _audit(job)))
    if second_judge.is_installed():
        steps.append(_attempt("conda-lock reads the lock and computes its content hash", lambda: _second_judge(job)))
    receipt = job.prefix.receipt() if made.verdict is Verdict.GOOD else None
    count = len(receipt.packages) if receipt else len(job.request.packages())
    return CiReport(tuple(steps), receipt.env_digest if receipt else None, count)


def _attempt(name: str, work: Callable[[], tuple[Verdict, Sequence[str]]]) -> Step:
    began_s = time.monotonic()
    try:
        verdict, lines = work()
    except EnvtoolError as error:
        verdict = _verdict(error)
        lines = [*error.message.splitlines(), *([f"hint: {error.hint}"] if error.hint else [])]
    return Step(name, verdict, time.monotonic() - began_s, tuple(lines))


def _verdict(error: EnvtoolError) -> Verdict:
    if isinstance(error, HashMismatchError):
        return Verdict.IRREPRODUCIBLE  # it can be downloaded, but is no longer what was locked
    return Verdict.UNREACHABLE if isinstance(error, NetworkError) else Verdict.ERROR


def _freshness(job: Job) -> tuple[Verdict, Sequence[str]]:
    answer = check(job.lockfile, job.freshness)
    return (Verdict.GOOD if answer.is_current else Verdict.STALE), [str(each) for each in answer.findings]


def _second_judge(job: Job) -> tuple[Verdict, Sequence[str]]:
    try:
        theirs = second_judge.conda_lock_hashes(job.lockfile, job.freshness.spec)
    except ProcessError as error:  # a pip option that only envtool reads, for one
        return Verdict.SKIPPED, error.message.splitlines()[-1:]
    differ = [each for each, digits in theirs.items() if job.lockfile.content_hash.get(each, digits) != digits]
    lines = [f"{each}: expected {theirs[each]}, found {job.lockfile.content_hash[each]}" for each in differ]
    return (Verdict.STALE if lines else Verdict.GOOD), lines


def _create(job: Job, cache: Cache, display: ProgressDisplay) -> tuple[Verdict, Sequence[str]]:
    outcome = create(job.request, job.prefix, cache, display)
    done = f"{len(outcome.plan.install)} packages installed, {len(outcome.plan.remove)} removed"
    return Verdict.GOOD, [done, *outcome.notes(), *(f"warning: {each}" for each in outcome.warnings())]


def _verify(job: Job, cache: Cache, display: ProgressDisplay) -> tuple[Verdict, Sequence[str]]:
    result = verify(job.prefix, job.request.packages(), cache, display)
    if job.is_rebuilt:
        result = compare_with_rebuilt(job.prefix, job.lockfile, result, cache, display)
    findings = result.findings
    write_atomically(job.output / "verify.xml", as_junit(findings, str(job.prefix.path), result.file_count))
    if result.is_equal:
        return Verdict.GOOD, [f"{result.file_count} files"]
    return Verdict.IRREPRODUCIBLE, _lines(findings)


def _lines(findings: Sequence[Finding]) -> list[str]:
    lines = [f"{each.kind}: {each.what} ({each.detail})" for each in findings[:_SHOWN]]
    return [*lines, f"and {len(findings) - _SHOWN} more; verify.xml has all"] if len(findings) > _SHOWN else lines


def _audit(job: Job) -> tuple[Verdict, Sequence[str]]:
    from envtool.audit.audit import audit
    from envtool.audit.report import coverage, sentence
    from envtool.inspect_lock.graph import graph

    whole = graph(job.lockfile, job.request.platform, job.request.categories)
    result = audit(whole, job.database, job.ignored)  # type: ignore[arg-type]
    lines = [sentence(each) for each in result.failing(job.level)]
    return (Verdict.VULNERABLE if lines else Verdict.GOOD), [*lines, coverage(result)]


def _write_sbom(job: Job) -> tuple[Verdict, Sequence[str]]:
    request = job.request
    wanted = BomRequest(job.lockfile, request.platform, request.categories, job.name)
    text = bill_of_materials(wanted, is_offline=True)
    write_atomically(job.output / "sbom.json", text)
    return Verdict.GOOD, []
