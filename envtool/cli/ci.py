"""The reproducibility check of a CI server. Every step runs that can; the first that fails decides the exit code, by
who has to act: a stale lock is the author's, an unreachable package the network's (run it again), an environment that
differs is a finding."""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click

from envtool import console, paths, policy
from envtool.atomic_files import write_atomically
from envtool.audit.audit import audit, coverage, sentence
from envtool.audit.osv import LEVELS
from envtool.cli import options
from envtool.errors import EnvtoolError, HashMismatchError, NetworkError, ProcessError
from envtool.export.sbom import BomRequest, bill_of_materials
from envtool.fetch.archive_cache import Cache
from envtool.inspect_lock.graph import graph
from envtool.install.create import compare_with_rebuilt, create
from envtool.install.request import Request
from envtool.lockfile.conda_lock_v1 import Lockfile
from envtool.prefix.prefix import Prefix
from envtool.solve import staleness
from envtool.solve.content_hash import conda_lock_hashes
from envtool.solve.lock import LockRequest
from envtool.solve.md5_completion import read_complete
from envtool.verify import as_junit, escape_for_github, verify

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
        failed = [step.verdict for step in self.steps if step.verdict.exit_code]
        return failed[0] if failed else Verdict.GOOD


class Job(NamedTuple):
    """What is to be checked."""

    freshness: LockRequest
    lockfile: Lockfile
    request: Request
    prefix: Prefix
    output: Path
    is_rebuilt: bool
    name: str
    database: Path | None = None  # of vulnerabilities, where the lock shall be audited
    ignored: Path | None = None  # an OpenVEX file
    level: str = "low"


def run(job: Job, cache: Cache, display: console.ProgressDisplay) -> CiReport:
    """Run every step that can be run; nothing that a step raises on purpose ends the others."""
    steps = [_attempt("the lock is fresh", lambda: _freshness(job))]
    name = "every package can be downloaded, and the environment be made"
    made = _attempt(name, lambda: _create(job, cache, display))
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
    if find_spec("conda_lock") is not None:
        steps.append(_attempt("conda-lock reads the lock and computes its content hash", lambda: _second_judge(job)))
    receipt = job.prefix.receipt() if made.verdict is Verdict.GOOD else None
    count = len(receipt.packages) if receipt else len(job.request.packages)
    return CiReport(tuple(steps), receipt.env_digest if receipt else None, count)


def _attempt(name: str, work: Callable[[], tuple[Verdict, Sequence[str]]]) -> Step:
    began_s = time.monotonic()
    try:
        verdict, lines = work()
    except EnvtoolError as error:
        # What has other bytes can be downloaded, but is no longer what was locked.
        kinds = {HashMismatchError: Verdict.IRREPRODUCIBLE, NetworkError: Verdict.UNREACHABLE}
        verdict = next((each for kind, each in kinds.items() if isinstance(error, kind)), Verdict.ERROR)
        lines = [*error.message.splitlines(), *([f"hint: {error.hint}"] if error.hint else [])]
    return Step(name, verdict, time.monotonic() - began_s, tuple(lines))


def _freshness(job: Job) -> tuple[Verdict, Sequence[str]]:
    answer = staleness.check(job.lockfile, job.freshness)
    return (Verdict.GOOD if answer.is_current else Verdict.STALE), [str(finding) for finding in answer.findings]


def _second_judge(job: Job) -> tuple[Verdict, Sequence[str]]:
    try:
        theirs = conda_lock_hashes(job.lockfile, job.freshness.spec)
    except ProcessError as error:  # a pip option that only envtool reads, for one
        return Verdict.SKIPPED, error.message.splitlines()[-1:]
    differ = [each for each, digits in theirs.items() if job.lockfile.content_hash.get(each, digits) != digits]
    lines = [f"{each}: expected {theirs[each]}, found {job.lockfile.content_hash[each]}" for each in differ]
    return (Verdict.STALE if lines else Verdict.GOOD), lines


def _create(job: Job, cache: Cache, display: console.ProgressDisplay) -> tuple[Verdict, Sequence[str]]:
    outcome = create(job.request, job.prefix, cache, display)
    done = f"{len(outcome.plan.install)} packages installed, {len(outcome.plan.remove)} removed"
    return Verdict.GOOD, [done, *outcome.notes(), *(f"warning: {warning}" for warning in outcome.warnings())]


def _verify(job: Job, cache: Cache, display: console.ProgressDisplay) -> tuple[Verdict, Sequence[str]]:
    result = verify(job.prefix, job.request.packages, cache, display)
    if job.is_rebuilt:
        result = compare_with_rebuilt(job.prefix, job.lockfile, result, cache, display)
    findings = result.findings
    write_atomically(job.output / "verify.xml", as_junit(findings, str(job.prefix.path), result.file_count))
    if result.is_equal:
        return Verdict.GOOD, [f"{result.file_count} files"]
    lines = [f"{finding.kind}: {finding.what} ({finding.detail})" for finding in findings[:_SHOWN]]
    more = [f"and {len(findings) - _SHOWN} more; verify.xml has all"] if len(findings) > _SHOWN else []
    return Verdict.IRREPRODUCIBLE, [*lines, *more]


def _audit(job: Job) -> tuple[Verdict, Sequence[str]]:
    whole = graph(job.lockfile, job.request.platform, job.request.categories)
    result = audit(whole, job.database, job.ignored)  # type: ignore[arg-type]
    lines = [sentence(each) for each in result.failing(job.level)]
    return (Verdict.VULNERABLE if lines else Verdict.GOOD), [*lines, coverage(result)]


def _write_sbom(job: Job) -> tuple[Verdict, Sequence[str]]:
    wanted = BomRequest(job.lockfile, job.request.platform, job.request.categories, job.name)
    write_atomically(job.output / "sbom.json", bill_of_materials(wanted, is_offline=True))
    return Verdict.GOOD, []


_MARKS, _BAD = {Verdict.GOOD: "✅", Verdict.SKIPPED: "⏭️"}, "❌"
_ADVICE = {
    Verdict.STALE: "run `envtool lock` and commit the lock with what you changed",
    Verdict.UNREACHABLE: "run the job again; `envtool mirror probe` shows which places answer, and a cache that is "
    "kept between runs needs none of them",
    Verdict.IRREPRODUCIBLE: "the same lock gave other bytes: look at the files below before you trust either",
    Verdict.VULNERABLE: "`envtool lock --upgrade-package NAME` moves a package to its fix; what does not affect you "
    "goes into the file of --ignore, with a date",
    Verdict.ERROR: "the machine or the lock cannot be used as it is",
}


def as_markdown(report: CiReport, lockfile: str) -> str:
    """One page: the verdict, a table of the steps, and what each of them found."""
    verdict = report.verdict
    title = "reproducible" if verdict is Verdict.GOOD else verdict.value
    lines = [f"## {_MARKS.get(verdict, _BAD)} `{lockfile}`: {title}", ""]
    if verdict in _ADVICE:
        lines += [f"**What to do:** {_ADVICE[verdict]}.", ""]
    lines += ["| | step | verdict | seconds |", "|---|---|---|--:|"]
    for step in report.steps:
        lines.append(
            f"| {_MARKS.get(step.verdict, _BAD)} | {step.name} | {step.verdict.value} | {step.elapsed_s:.1f} |"
        )
    digest = f", env digest `{report.env_digest}`" if report.env_digest else ""
    lines += ["", f"{report.package_count} packages{digest}"]
    for step in report.steps:
        if step.verdict.exit_code:
            # A line that looks like the end of the block would let what follows be read as Markdown.
            plain = (line.replace("```", "'''") for line in step.lines)
            lines += ["", f"### {step.name}: {step.verdict.value}", "", "```text", *plain, "```"]
    return "\n".join(lines) + "\n"


def as_annotations(report: CiReport) -> list[str]:
    """Workflow commands of GitHub, one for each step that failed; the title has its verdict."""
    failed = [step for step in report.steps if step.verdict.exit_code]
    texts = (escape_for_github("\n".join([f"not shown: {each.name}", *each.lines])) for each in failed)
    return [f"::error title=envtool ci%3A {each.verdict.value}::{text}" for each, text in zip(failed, texts)]


def as_dict(report: CiReport) -> dict[str, Any]:
    """The result for programs."""
    steps = [{**asdict(step), "verdict": step.verdict.value} for step in report.steps]
    return {**asdict(report), "verdict": report.verdict.value, "exit_code": report.verdict.exit_code, "steps": steps}


@click.command("ci")
@options.file_option
@click.option("--source", "sources", type=options.PATH, multiple=True, metavar="FILE",
              help="What the lock was made from. Repeatable.  [default: the sources that the lock names]")  # fmt: skip
@click.option("-p", "--prefix", "path", type=options.PATH, default=Path(".envtool-ci/env"),
              show_default=True, help="Where the environment is made; kept for the steps that follow.")  # fmt: skip
@options.machine_platform_option
@options.installed_category_option
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=Path("envtool-ci"),
              show_default=True, help="The directory for summary.md, sbom.json and verify.xml.")  # fmt: skip
@click.option("--no-rebuild", is_flag=True, help="Do not make the environment a second time.")
@click.option("--db", "database", type=options.PATH, help="Also audit the lock with this OSV database.")
@click.option("--ignore", type=options.PATH, help="For --db: an OpenVEX file of what does not affect you.")
@click.option(
    "--level", type=click.Choice(LEVELS), default="low", show_default=True, help="For --db: the least that counts."
)
@options.json_option
@click.pass_context
def command(
    ctx: click.Context, lockfile_path: Path, sources: tuple[Path, ...], path: Path, platform: str | None,
    categories: tuple[str, ...], output: Path, no_rebuild: bool,
    database: Path | None, ignore: Path | None, level: str, as_json: bool,
) -> None:  # fmt: skip
    """Check in CI that a lock is fresh, available and reproducible.

    The lock is compared with its sources; the environment is made from it with the cache, every file verified, and made
    a second time and compared; a bill of materials and one summary in Markdown are written. On GitHub the summary also
    appears on the page of the run, and what failed as annotations.

    \b
    Exit codes:
      0   all is well
      10  stale: the lock is not what its sources ask for
      11  unreachable: a package could not be downloaded; run it again
      12  irreproducible: other bytes than those that were locked, or other files the second time
      13  vulnerable: a package has a known vulnerability (with --db)
      3   something else, with a hint
    """
    lockfile = read_complete(lockfile_path)
    request = Request(
        lockfile, platform or options.this_platform(), categories, options.command_line(), repairs=True, is_listed=False
    )
    policy.require(request, lockfile_path)
    name = lockfile_path.absolute().parent.name
    fresh = staleness.request(sources, lockfile_path, lockfile, {})
    output.mkdir(parents=True, exist_ok=True)
    job = Job(fresh, lockfile, request, Prefix(path), output, not no_rebuild, name, database, ignore, level)
    with console.ProgressDisplay() as display:
        result = run(job, Cache(paths.cache()), display)
    if result.env_digest:
        policy.require(request, lockfile_path, result.env_digest)
    page = as_markdown(result, str(lockfile_path))
    write_atomically(output / "summary.md", page)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:  # other steps write there as well
            file.write(page)
    if as_json:
        console.answer_json(as_dict(result))
    else:
        console.answer(page.rstrip("\n"))
        for line in as_annotations(result) if os.environ.get("GITHUB_ACTIONS") == "true" else ():
            console.answer(line)
    ctx.exit(result.verdict.exit_code)
