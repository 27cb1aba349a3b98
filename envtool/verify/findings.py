"""Findings of a verification, as text, JUnit for CI servers, annotations for GitHub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KINDS = ("extra", "missing", "mismatched")


@dataclass(frozen=True)
class Finding:
    """One thing in which a prefix differs from its lock."""

    kind: str
    what: str
    detail: str
    package: tuple[str, str] | None = None  # manager and name; None for what no package brings
    is_file: bool = True


def as_text(findings: Sequence[Finding], shown: int) -> str:
    """One line for each finding, up to a number of them: a prefix that is quite another would fill the terminal."""
    lines = [f"{each.kind:10}  {each.what}  ({each.detail})" for each in findings[:shown]]
    if len(findings) > shown:
        lines.append(f"and {len(findings) - shown} more; --json shows all")
    return "\n".join(lines)


def as_github(findings: Sequence[Finding], prefix: str) -> str:
    """Workflow commands that GitHub shows as annotations.

    Source: GitHub Actions documentation, "Workflow commands": `%`, carriage return and newline are escaped.
    """
    return "\n".join(f"::error title=envtool verify::{escape_for_github(_sentence(each, prefix))}" for each in findings)


def as_junit(findings: Sequence[Finding], prefix: str, file_count: int) -> str:
    """A JUnit report: one test case for each kind of finding, failed when there are any."""
    from xml.etree import ElementTree  # a create has no use for it

    suite = ElementTree.Element("testsuite", name=f"envtool verify {prefix}", tests=str(len(KINDS)))
    failures = 0
    for kind in KINDS:
        case = ElementTree.SubElement(suite, "testcase", classname="envtool.verify", name=f"no {kind} file or package")
        lines = [_sentence(each, prefix) for each in findings if each.kind == kind]
        if lines:
            failures += 1
            failure = ElementTree.SubElement(case, "failure", message=f"{len(lines)} {kind}")
            failure.text = "\n".join(lines)
    suite.set("failures", str(failures))
    ElementTree.SubElement(suite, "system-out").text = f"{file_count} files were read"
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def _sentence(finding: Finding, prefix: str) -> str:
    where = f"{prefix}/{finding.what}" if finding.is_file else finding.what
    return f"{finding.kind}: {where} ({finding.detail})"


def escape_for_github(text: str) -> str:
    """A text as the message of a workflow command, which is one line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
