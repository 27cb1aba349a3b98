"""An audit of one platform of a lock: known vulnerabilities, and licences that are not allowed; as text and SARIF."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from envtool.audit import osv
from envtool.audit.osv import LEVELS, Name, Vulnerability
from envtool.errors import EnvtoolError
from envtool.inspect_lock.graph import Graph
from envtool.inspect_lock.package_metadata import look_up
from envtool.lockfile.model import LockedPackage
from envtool.prefix.rattler import satisfies
from envtool.pypi.distributions import DISTRIBUTION_NAMES, distribution_names, pep440

_SARIF_LEVELS = {"low": "note", "medium": "warning"}
_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


@dataclass(frozen=True)
class Found:
    """A vulnerability of a package of the lock."""

    package: LockedPackage
    vulnerability: Vulnerability
    lines: tuple[str, ...]  # the lines of environment.yml that lead to it
    held_by: tuple[str, ...] = ()  # what needs a version that the fix is not, each as `name constraint`
    ignored: str = ""  # why it does not count, empty where it does
    note: str = ""


@dataclass(frozen=True)
class Audit:
    """What was found."""

    found: tuple[Found, ...]
    packages: int
    # the packages of which the database cannot know anything: nothing maps them to its names
    uncovered: tuple[str, ...]
    records: int
    modified: str
    age_days: int | None  # of the newest record of the database; None where no record has a date
    # the packages with a licence that is not allowed, or unknown where some have to be, with the licence
    licenses: Mapping[str, str] = field(default_factory=dict)

    def failing(self, level: str) -> list[Found]:
        """What counts: not ignored, and of this level, of a higher one or of an unknown one."""
        least = LEVELS.index(level)
        levels = (osv.UNKNOWN, *LEVELS[least:])
        return [each for each in self.found if not each.ignored and each.vulnerability.level in levels]


def audit(whole: Graph, database_path: Path, vex_path: Path | None = None, today: date | None = None) -> Audit:
    """Look every package up. Raises EnvtoolError if the database or the list of what is ignored cannot be read."""
    today = today or datetime.now(timezone.utc).date()
    names = {key: _names(package) for key, package in whole.packages.items()}
    database = osv.read(database_path, {name for found in names.values() for name in found})
    statements = _statements(vex_path) if vex_path else []
    found = []
    for key, package in sorted(whole.packages.items()):
        versions = {each: pep440(package.version) if each[0] == "PyPI" else package.version for each in names[key]}
        for vulnerability in database.find(versions):
            lines = tuple(dict.fromkeys(whole.requested[chain[0]] for chain in whole.chains(key)))
            ignored, note = _ignored(statements, vulnerability, package, today)
            # What the packages that need this one ask of it, where the fix does not fit.
            asked = whole.reversed.edges[key].items() if vulnerability.fixed else ()
            held = tuple(
                f"{needing[1]} needs {key[1]} {constraint}"
                for needing, constraint in asked
                if constraint and not _fits(str(vulnerability.fixed), constraint, needing[0])
            )
            found.append(Found(package, vulnerability, lines, held, ignored, note))
    covered = {key for key, own in names.items() if own[0][0] == "PyPI" or not database.records.keys().isdisjoint(own)}
    uncovered = tuple(key[1] for key in sorted(names) if key not in covered)
    age = (today - date.fromisoformat(database.modified[:10])).days if database.modified else None
    return Audit(tuple(found), len(names), uncovered, database.count, database.modified, age)


def _names(package: LockedPackage) -> list[Name]:
    if package.manager == "pip":
        return [("PyPI", canonicalize_name(package.name))]
    is_python = "python" in package.dependencies or package.name in DISTRIBUTION_NAMES
    upstream = [("PyPI", name) for name in distribution_names(package.name)] if is_python else []
    return [*upstream, ("conda", package.name)]


def _fits(version: str, constraint: str, manager: str) -> bool:
    if manager == "conda":
        return satisfies(version, constraint)
    try:
        return bool(SpecifierSet(constraint).contains(version, prereleases=True))
    except InvalidSpecifier:
        return True


class _Statement(NamedTuple):
    identifiers: frozenset[str]
    products: frozenset[str]  # empty for every package
    why: str
    expires: date | None

    @classmethod
    def read(cls, stated: Mapping[str, Any]) -> _Statement:
        named, expires = stated.get("vulnerability"), stated.get("expires")
        named = named if isinstance(named, Mapping) else {"name": named}
        products = [one.get("@id") if isinstance(one, Mapping) else one for one in stated.get("products") or ()]
        return cls(
            frozenset({str(named.get("name")), *map(str, named.get("aliases") or ())}),
            frozenset(str(one).partition("?")[0] for one in products),
            str(stated.get("justification") or stated.get("impact_statement") or stated["status"]),
            None if expires is None else date.fromisoformat(str(expires)[:10]),
        )


def _statements(path: Path) -> list[_Statement]:
    """What an OpenVEX 0.2.0 document states to affect no product, or to be fixed; `expires` (a date) is ours."""
    try:
        value = json.loads(path.read_bytes())
        if not str(value["@context"]).startswith("https://openvex.dev/ns"):
            raise ValueError("@context is not OpenVEX's")
        counting = [stated for stated in value["statements"] if stated["status"] in ("not_affected", "fixed")]
        return list(map(_Statement.read, counting))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EnvtoolError(f"{path} cannot be read as OpenVEX: {error}", "docs/how-to/audit.md shows one") from error


def _ignored(
    statements: Sequence[_Statement], vulnerability: Vulnerability, package: LockedPackage, today: date
) -> tuple[str, str]:
    own = f"pkg:{'pypi' if package.manager == 'pip' else 'conda'}/{package.name}"
    for each in statements:
        is_product = not each.products or not each.products.isdisjoint({own, f"{own}@{package.version}"})
        if is_product and not each.identifiers.isdisjoint(vulnerability.aliases):
            is_over = each.expires is not None and each.expires < today
            return ("", f"was ignored until {each.expires}: {each.why}") if is_over else (each.why, "")
    return "", ""


def licenses(packages: Sequence[LockedPackage]) -> dict[str, str | None]:
    """The licences of packages, as far as this machine knows them."""
    known = look_up(packages, is_offline=True)
    return {f"{each.manager} {each.name}": known[each.url].license if each.url in known else None for each in packages}


def refused(stated: Mapping[str, str | None], allowed: Sequence[str], denied: Sequence[str]) -> dict[str, str]:
    """The packages whose licence may not be used; with a list of allowed ones, those without a known licence too."""
    return {
        name: license or osv.UNKNOWN
        for name, license in stated.items()
        if (license is None and allowed) or (license is not None and not is_allowed(license, allowed, denied))
    }


# How records and classifiers write licences that SPDX has other names for.
_SPELLINGS: Mapping[str, str] = {
    r"^GNU (?:(A)ffero |(L)esser )?General Public(?: License)? v(\d)( or later)? "
    r"\((?(1)A)(?(2)L)GPLv\3(?(4)\+)\)$": r"\1\2GPLv\3\4",
    r" ?\| ?": " OR ",
    r"\b(?:GNU )?([AL])(?:ffero|esser|ibrary) General Public(?: Licen[cs]e)?\b": r"\1GPL",
    r"\b(?:GNU )?General Public Licen[cs]e\b": "GPL",
    r"\bGNU (?=[AL]?GPL)": "",
    r"\b([AL]?GPL)(?:,? version |[ -]?v? ?)(\d)": r"\1-\2",
    r"\b([AL]?GPL) ?\(>= ?(\d)(\.\d)?\)": r"\1-\2\3+",
    r"\b([AL]?GPL-\d(?:\.\d)?),?[ -]or,?[ -](?:later|newer|(?:\(?at your option\)?,? )?any later version)\b": r"\1+",
    r"\b([AL]?GPL-\d)(\+?)(?![\w.-])": r"\1.0\2",
    r"\bBSD[ -]?([23])[ -]clauses?(?: Licen[cs]e)?\b": r"BSD-\1-Clause",
    r"\b([23])-clause BSD(?: Licen[cs]e)?\b": r"BSD-\1-Clause",
    r"^ISC Licen[cs]e$": "ISC",
    r"\bApache(?: Software)?(?: Licen[cs]e)?,?(?: Version)?[ -]*v?2(?:\.0)?(?![\w.-])": "Apache-2.0",
    r"\bMPL[ -]?v?2(?:\.0)?(?![\w.-])": "MPL-2.0",
    r"\b(?:The )?MIT Licen[cs]e\b": "MIT",
}
# Classifiers of the Python package index that are one licence; what else ends in a name in brackets may be another one.
_CLASSIFIERS = {
    "blue oak model license (blueoak-1.0.0)": "BlueOak-1.0.0",
    "boost software license 1.0 (bsl-1.0)": "BSL-1.0",
    "cc0 1.0 universal (cc0 1.0) public domain dedication": "CC0-1.0",
    "cea cnrs inria logiciel libre license, version 2.1 (cecill-2.1)": "CECILL-2.1",
    "cecill-b free software license agreement (cecill-b)": "CECILL-B",
    "cecill-c free software license agreement (cecill-c)": "CECILL-C",
    "cmu license (mit-cmu)": "MIT-CMU",
    "common development and distribution license 1.0 (cddl-1.0)": "CDDL-1.0",
    "eclipse public license 1.0 (epl-1.0)": "EPL-1.0",
    "eclipse public license 2.0 (epl-2.0)": "EPL-2.0",
    "educational community license, version 2.0 (ecl-2.0)": "ECL-2.0",
    "european union public licence 1.0 (eupl 1.0)": "EUPL-1.0",
    "european union public licence 1.1 (eupl 1.1)": "EUPL-1.1",
    "european union public licence 1.2 (eupl 1.2)": "EUPL-1.2",
    "historical permission notice and disclaimer (hpnd)": "HPND",
    "isc license (iscl)": "ISC",
    "miros license (miros)": "MirOS",
    "mit no attribution license (mit-0)": "MIT-0",
    "mozilla public license 1.0 (mpl)": "MPL-1.0",
    "mozilla public license 1.1 (mpl 1.1)": "MPL-1.1",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "mulan permissive software license v2 (mulanpsl-2.0)": "MulanPSL-2.0",
    "nasa open source agreement v1.3 (nasa-1.3)": "NASA-1.3",
    "open software license 3.0 (osl-3.0)": "OSL-3.0",
    "sil open font license 1.1 (ofl-1.1)": "OFL-1.1",
    "the unlicense (unlicense)": "Unlicense",
    "zero-clause bsd (0bsd)": "0BSD",
    "zlib/libpng license": "Zlib",
}


@functools.cache
def _spdx() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


@functools.cache
def _parsed(text: str) -> Any:
    """A licence as an expression, or as one text that stands for itself where it cannot be read as one."""
    text = _CLASSIFIERS.get(text.lower(), text)
    for spelling, name in _SPELLINGS.items():
        text = re.sub(spelling, name, text, flags=re.IGNORECASE)
    try:
        expression = _spdx().parse(text, validate=False)
        str(expression)  # fails for one that is too deep, as all that goes through it would
    except Exception:  # foreign text, for which boolean.py raises whatever it meets
        return text
    return text if expression is None else expression


def is_allowed(license: str, allowed: Sequence[str], denied: Sequence[str]) -> bool:
    """Whether a package may be used under its licence, an SPDX expression or one other text: of `A OR B` one has to be
    allowed, of `A AND B` both; without `allowed` all are that are not denied, but a name that SPDX does not know is no
    way around one that is."""
    from license_expression import LicenseWithExceptionSymbol

    able, unable = ({str(_parsed(each)) for each in names} for names in (allowed, denied))

    def holds(node: Any) -> bool:
        if isinstance(node, _spdx().OR):
            return any(holds(each) for each in node.args if able or _is_judged(each)) or all(map(holds, node.args))
        if isinstance(node, _spdx().AND):
            return all(map(holds, node.args))
        # `A WITH B` gives more rights than A alone: either name decides, and its own before that of A.
        names = {str(node), str(node.license_symbol)} if isinstance(node, LicenseWithExceptionSymbol) else {str(node)}
        if len(names) > 1 and str(node) in able - unable:
            return True
        # Who may choose a later version may choose this one.
        chosen = names | {each.replace("-or-later", "-only") for each in names}
        return (not able or not chosen.isdisjoint(able)) and names.isdisjoint(unable)

    return holds(_parsed(license))


def unjudged(stated: Mapping[str, str | None]) -> dict[str, str]:
    """The licences that are no SPDX expressions: what is denied may be among them."""
    found = {name: license or osv.UNKNOWN for name, license in stated.items()}
    return {name: license for name, license in found.items() if not _is_judged(_parsed(license))}


def _is_judged(expression: Any) -> bool:
    if isinstance(expression, str):
        return False
    keys = _spdx().license_keys(expression)
    return all(each in _spdx().known_symbols or each.startswith("LicenseRef-") for each in keys)


def doubt(stated: Mapping[str, str | None]) -> str:
    """What to say of `unjudged` licences where some are denied; empty where there are none."""
    others = [f"{name} ({license})" for name, license in unjudged(stated).items()]
    listed = ", ".join(others)
    return listed and f"{len(others)} licences are no SPDX expressions, so that what is denied may be in them: {listed}"


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
    """What counts, as SARIF. Source: OASIS SARIF 2.1.0; GitHub reads `security-severity` of a rule."""
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
