"""The findings of an audit as text, JSON and SARIF."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from envtool.audit.audit import Audit, Found

_SARIF_LEVELS = {"low": "note", "medium": "warning"}


def sentence(found: Found) -> str:
    """One finding in a line."""
    package, vulnerability = found.package, found.vulnerability
    aliases = ", ".join(sorted(vulnerability.aliases - {vulnerability.id}))
    parts = [
        f"{package.manager} {package.name} {package.version}: {vulnerability.level}: {vulnerability.id}"
        + (f" ({aliases})" if aliases else ""),
        f"fixed in {vulnerability.fixed}" if vulnerability.fixed else "no fix is known",
        *(["held back: " + "; ".join(found.held_by)] if found.held_by else []),
        *(["brought by " + ", ".join(found.lines)] if found.lines else []),
        *([f"ignored: {found.ignored}"] if found.ignored else []),
        *([found.note] if found.note else []),
    ]
    return "; ".join(parts)


def coverage(audit: Audit) -> str:
    """What the answer rests on: how old the database is, and what it cannot know."""
    age = f"its newest is {audit.age_days} days old" if audit.age_days is not None else "none has a date"
    return (
        f"{audit.packages} packages, {len(audit.uncovered)} of them not covered (conda packages that are no Python "
        f"distributions and that the database does not name); {audit.records} records, {age}"
    )


def as_dict(audit: Audit) -> dict[str, Any]:
    """All of it for programs."""
    found = [
        {"manager": each.package.manager, "name": each.package.name, "version": each.package.version,
         **asdict(each.vulnerability), "aliases": sorted(each.vulnerability.aliases), "lines": each.lines,
         "held_by": each.held_by, "ignored": each.ignored, "note": each.note}
        for each in audit.found
    ]  # fmt: skip
    return {**asdict(audit), "found": found}


def as_sarif(found: Sequence[Found], lockfile: str) -> str:
    """What counts, as SARIF.

    Source: OASIS SARIF 2.1.0; GitHub reads `security-severity` of a rule.
    """
    rules = {
        each.vulnerability.id: {
            "id": each.vulnerability.id,
            "shortDescription": {"text": each.vulnerability.summary or each.vulnerability.id},
        }
        for each in found
    }
    location = [{"physicalLocation": {"artifactLocation": {"uri": lockfile}, "region": {"startLine": 1}}}]
    results = [
        {"ruleId": each.vulnerability.id, "level": _SARIF_LEVELS.get(each.vulnerability.level, "error"),
         "message": {"text": sentence(each)}, "locations": location}
        for each in found
    ]  # fmt: skip
    driver = {"name": "envtool audit", "rules": [rules[name] for name in sorted(rules)]}
    run = {"tool": {"driver": driver}, "results": results}
    return json.dumps({"version": "2.1.0", "$schema": _SCHEMA, "runs": [run]}, indent=1) + "\n"


_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
