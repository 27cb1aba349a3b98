"""Comparison of every file of a prefix with what the archives of its lock hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import Declared, FileManifests
from envtool.console import ProgressDisplay
from envtool.fetch.archive_cache import Cache
from envtool.lockfile.model import LockedPackage
from envtool.prefix.bytecode import source_of
from envtool.prefix.conda_meta import CondaPackage, conda_packages
from envtool.prefix.layout import Layout
from envtool.prefix.layout import layout as lay_out
from envtool.prefix.prefix import Prefix
from envtool.prefix.scan import Entry, Known, env_digest, scan
from envtool.source_builds.wheel_builds import fetch_or_build

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
    lines = [f"{finding.kind:10}  {finding.what}  ({finding.detail})" for finding in findings[:shown]]
    if len(findings) > shown:
        lines.append(f"and {len(findings) - shown} more; --json shows all")
    return "\n".join(lines)


def as_github(findings: Sequence[Finding], prefix: str) -> str:
    """Workflow commands that GitHub shows as annotations (GitHub's documentation, "Workflow commands")."""
    return "\n".join(f"::error title=envtool verify::{escape_for_github(_sentence(each, prefix))}" for each in findings)


def as_junit(findings: Sequence[Finding], prefix: str, file_count: int) -> str:
    """A JUnit report: one test case for each kind of finding, failed when there are any."""
    from xml.etree import ElementTree  # a create has no use for it

    suite = ElementTree.Element("testsuite", name=f"envtool verify {prefix}", tests=str(len(KINDS)))
    failures = 0
    for kind in KINDS:
        case = ElementTree.SubElement(suite, "testcase", classname="envtool.verify", name=f"no {kind} file or package")
        lines = [_sentence(finding, prefix) for finding in findings if finding.kind == kind]
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


class Inventory(NamedTuple):
    """What a prefix should hold and what it holds."""

    declared: Mapping[str, Declared]
    entries: Mapping[str, Entry]
    layout: Layout

    @property
    def env_digest(self) -> str:
        """The env digest of what is there."""
        return env_digest(self.entries.values())

    def generated(self) -> dict[str, str]:
        """What no archive or wheel has the bytes of (byte-code, entry points, RECORD, scripts of wheels), path to
        sha256."""
        return {
            path: entry.sha256
            for path, entry in self.entries.items()
            if path not in self.declared or self.declared[path].sha256 is None
        }

    def has_altered(self, noted: Mapping[str, str]) -> bool:
        """Whether a file that installing wrote, byte-code aside, is another than a receipt notes."""
        found = self.generated()
        return any(found.get(path, sha256) != sha256 for path, sha256 in noted.items() if not source_of(path))


@dataclass(frozen=True)
class VerifyReport:
    """The answer of a verification."""

    findings: tuple[Finding, ...]
    env_digest: str
    file_count: int
    size_bytes: int

    @property
    def is_equal(self) -> bool:
        """Whether the prefix is exactly what the lock states."""
        return not self.findings


def verify(prefix: Prefix, locked: Sequence[LockedPackage], cache: Cache, display: ProgressDisplay) -> VerifyReport:
    """Compare a prefix with the packages of a lock. Raises PrefixError if it is not whole, or as `take_inventory`."""
    receipt = prefix.require_whole()
    inventory = take_inventory(prefix, locked, cache, display)
    findings = [*_package_findings(conda_packages(prefix.path), locked), *declared_findings(inventory)]
    findings += _generated_findings(inventory, receipt.generated)
    ordered = tuple(sorted(findings, key=lambda each: (each.kind, each.what)))
    size_bytes = sum(entry.size_bytes for entry in inventory.entries.values())
    return VerifyReport(ordered, inventory.env_digest, len(inventory.entries), size_bytes)


def take_inventory(
    prefix: Prefix, locked: Sequence[LockedPackage], cache: Cache, display: ProgressDisplay,
    known: Known | None = None, proven: Mapping[str, Path] | None = None,
) -> Inventory:  # fmt: skip
    """Read every file of a prefix, and list what its lock states to be there. Raises as `keep_manifests`."""
    manifests = FileManifests(cache.root)
    keep_manifests(manifests, locked, cache, display, proven or {})
    layout = lay_out(locked, manifests)
    # Byte-code that a wheel ships is compiled anew like all other.
    declared = {path: file for path, file in layout.declared.items() if not path.endswith(".pyc")}
    placeholders = {path: each.placeholder for path, each in declared.items() if each.placeholder}
    with display.task(f"read every file of {prefix.path}"):
        return Inventory(declared, scan(prefix.path, placeholders, known, prefix.named), layout)


def keep_manifests(
    manifests: FileManifests, locked: Sequence[LockedPackage], cache: Cache, display: ProgressDisplay,
    proven: Mapping[str, Path],
) -> None:  # fmt: skip
    """Read the archives and wheels that have no manifest yet. Raises NetworkError or HashMismatchError."""
    unknown = [each for each in locked if not manifests.is_known(require_sha256(each))]
    if unknown:
        missing = [each for each in unknown if each.url not in proven]
        archives = {**proven, **(fetch_or_build(missing, cache, display) if missing else {})}
        with display.task("read what archives and wheels hold", len(unknown)) as task:
            for each in unknown:
                manifests.keep(require_sha256(each), each.manager, archives[each.url])
                task.advance()


def declared_findings(inventory: Inventory) -> Iterator[Finding]:
    """What is missing or altered of the files that archives and wheels bring."""
    for path, file in inventory.declared.items():
        entry = inventory.entries.get(path)
        name = file.package[1]
        if entry is None:
            yield Finding("missing", path, f"of {name}", file.package)
        elif (entry.kind == "link") != file.is_link:
            expected, found = ("link", "file") if file.is_link else ("file", "link")
            yield Finding("mismatched", path, f"of {name}: expected a {expected}, found a {found}", file.package)
        elif file.sha256 not in (None, entry.sha256):
            detail = f"of {name}: expected sha256:{file.sha256}, found sha256:{entry.sha256}, {entry.size_bytes} bytes"
            yield Finding("mismatched", path, detail, file.package)
        elif file.is_executable != entry.is_executable:
            detail = f"of {name}: {'may not be executed' if file.is_executable else 'may be executed'}"
            yield Finding("mismatched", path, detail, file.package)


def _generated_findings(inventory: Inventory, generated: Mapping[str, str]) -> Iterator[Finding]:
    found, declared = inventory.generated(), inventory.declared
    for path in generated.keys() - found.keys() - declared.keys():
        yield Finding("missing", path, "generated when the prefix was made")
    for path, sha256 in found.items():
        expected = generated.get(path)
        if expected is None and path in declared:
            continue  # the receipt is of an envtool that did not note what installing writes into
        if expected is None:
            size_bytes = inventory.entries[path].size_bytes
            yield Finding("extra", path, f"no package of the lock brings it, {size_bytes} bytes")
        elif expected != sha256:
            package = declared[path].package if path in declared else None
            yield Finding("mismatched", path, f"generated: expected sha256:{expected}, found sha256:{sha256}", package)


def _package_findings(there: Sequence[CondaPackage], locked: Sequence[LockedPackage]) -> Iterator[Finding]:
    wanted = {each.name: each for each in locked if each.manager == "conda"}
    found = {each.name: each for each in there}
    for name, each in wanted.items():
        if name not in found:
            detail = "the package is in the lock but not in the prefix"
            yield Finding("missing", f"{name} {each.version}", detail, ("conda", name), is_file=False)
        elif each.sha256 != found[name].sha256:
            detail = f"expected the archive sha256:{each.sha256}, found sha256:{found[name].sha256}"
            yield Finding("mismatched", f"{name} {each.version}", detail, ("conda", name), is_file=False)
    for name in found.keys() - wanted.keys():
        detail = "the package is in the prefix but not in the lock"
        yield Finding("extra", f"{name} {found[name].version}", detail, is_file=False)
