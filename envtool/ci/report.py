"""The result of `envtool ci`: Markdown for people, annotations for GitHub, values for programs."""

from __future__ import annotations

from typing import Any

from envtool.ci.pipeline import CiReport, Step, Verdict
from envtool.verify.findings import escape_for_github

_MARKS = {Verdict.GOOD: "✅", Verdict.SKIPPED: "⏭️"}
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
    lines = [f"## {_mark(verdict)} {_code(lockfile)}: {title}", ""]
    if verdict in _ADVICE:
        lines += [f"**What to do:** {_ADVICE[verdict]}.", ""]
    lines += ["| | step | verdict | seconds |", "|---|---|---|--:|"]
    for step in report.steps:
        lines.append(f"| {_mark(step.verdict)} | {step.name} | {step.verdict.value} | {step.elapsed_s:.1f} |")
    digest = f", env digest {_code(report.env_digest)}" if report.env_digest else ""
    lines += ["", f"{report.package_count} packages{digest}"]
    for step in report.steps:
        if step.verdict.exit_code:
            lines += ["", f"### {step.name}: {step.verdict.value}", "", "```text", *map(_plain, step.lines), "```"]
    return "\n".join(lines) + "\n"


def as_annotations(report: CiReport) -> list[str]:
    """Workflow commands of GitHub, one for each step that failed; the title has its verdict."""
    return [
        f"::error title=envtool ci%3A {each.verdict.value}::{escape_for_github(_sentence(each))}"
        for each in report.steps
        if each.verdict.exit_code
    ]


def as_dict(report: CiReport) -> dict[str, Any]:
    """The result for programs."""
    steps = [
        {"name": each.name, "verdict": each.verdict.value, "elapsed_s": each.elapsed_s, "lines": list(each.lines)}
        for each in report.steps
    ]
    return {
        "verdict": report.verdict.value,
        "exit_code": report.verdict.exit_code,
        "env_digest": report.env_digest,
        "package_count": report.package_count,
        "steps": steps,
    }


def _sentence(step: Step) -> str:
    return f"not shown: {step.name}\n" + "\n".join(step.lines)


def _mark(verdict: Verdict) -> str:
    return _MARKS.get(verdict, "❌")


def _code(text: str) -> str:
    return f"`{text}`"


def _plain(line: str) -> str:
    # A line that looks like the end of the block would let what follows be read as Markdown.
    return line.replace("```", "'''")
