"""Is a prefix exactly what its lock says? Every file is read and compared; the findings say what is not.

Out of scope: repairing (`envtool create`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from envtool.archives import fetch_packages, require_sha256
from envtool.contents import CondaPackage, conda_packages
from envtool.fetch import Cache
from envtool.inventory import Entry, Placeholder, env_digest, scan
from envtool.lockfile import LockedPackage
from envtool.manifest import Declared, Manifests
from envtool.prefix import Prefix
from envtool.report import Display


@dataclass(frozen=True)
class Finding:
    """One thing in which a prefix differs from its lock.

    Args:
        kind: `extra`, `missing` or `mismatched`.
        what: A path relative to the prefix, or a package.
        detail: Which package brings it, and what was expected and found.
    """

    kind: str
    what: str
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """The answer of a verification.

    Args:
        findings: What differs, sorted; none when the prefix is the lock's.
        env_digest: The env digest of the prefix as it is now.
        file_count: How many files were read.
        size_bytes: How much they hold.
    """

    findings: tuple[Finding, ...]
    env_digest: str
    file_count: int
    size_bytes: int

    @property
    def is_equal(self) -> bool:
        """Whether the prefix is exactly what the lock says."""
        return not self.findings


def verify(prefix: Prefix, locked: Sequence[LockedPackage], cache: Cache, display: Display) -> VerifyReport:
    """Compare a prefix with the packages of a lock.

    Args:
        prefix: The prefix; it must be whole.
        locked: What the lock says for its platform and categories.
        cache: Where archives and wheels are, should one have to be read.
        display: Where progress is shown.

    Raises:
        PrefixError: It is not there, not ours or not whole.
        NetworkError, HashMismatchError: An archive that is not in the cache could not be had or proven.
    """
    receipt = prefix.require_whole()
    installed = conda_packages(prefix.path)
    declared = declared_files(prefix, locked, cache, display)
    with display.task(f"read every file of {prefix.path}"):
        entries = scan(prefix.path, placeholders(declared))
    findings = [*_package_findings(installed, locked), *_file_findings(declared, receipt.generated, entries)]
    digest = env_digest(entries.values())
    if not findings and digest != receipt.env_digest:
        findings.append(Finding("mismatched", "env digest", f"expected {receipt.env_digest}, found {digest}"))
    ordered = tuple(sorted(findings, key=lambda each: (each.kind, each.what)))
    return VerifyReport(ordered, digest, len(entries), sum(entry.size_bytes for entry in entries.values()))


def declared_files(
    prefix: Prefix, locked: Sequence[LockedPackage], cache: Cache, display: Display
) -> dict[str, Declared]:
    """Every file that the locked archives and wheels bring; those whose manifest is not known are read."""
    manifests = Manifests(cache.root)
    unknown = [each for each in locked if not manifests.is_known(require_sha256(each))]
    archives = fetch_packages(unknown, cache, display) if unknown else {}
    site_packages = prefix.site_packages()
    declared: dict[str, Declared] = {}
    with display.task("list what archives and wheels hold", len(locked)) as task:
        for each in locked:
            read = manifests.of_archive if each.manager == "conda" else manifests.of_wheel
            label = f"{each.name} {each.version}"
            declared.update(read(archives.get(each.url), require_sha256(each), label, site_packages))
            task.advance()
    # Byte-code that a wheel ships is compiled anew like all other.
    return {path: file for path, file in declared.items() if not path.endswith(".pyc")}


def placeholders(declared: Mapping[str, Declared]) -> dict[str, Placeholder]:
    """The declared placeholder of each path that has one."""
    return {path: each.placeholder for path, each in declared.items() if each.placeholder}


def _package_findings(installed: Sequence[CondaPackage], locked: Sequence[LockedPackage]) -> Iterator[Finding]:
    wanted = {each.name: each for each in locked if each.manager == "conda"}
    found = {each.name: each for each in installed}
    for name in wanted.keys() - found.keys():
        yield Finding("missing", f"{name} {wanted[name].version}", "the lock has this package, the prefix has not")
    for name in found.keys() - wanted.keys():
        yield Finding("extra", f"{name} {found[name].version}", "the prefix has this package, the lock has not")
    for name in wanted.keys() & found.keys():
        if wanted[name].sha256 and wanted[name].sha256 != found[name].sha256:
            detail = f"expected the archive sha256:{wanted[name].sha256}, found sha256:{found[name].sha256}"
            yield Finding("mismatched", f"{name} {found[name].version}", detail)


def _file_findings(
    declared: Mapping[str, Declared], generated: Mapping[str, str], entries: Mapping[str, Entry]
) -> Iterator[Finding]:
    for path, file in declared.items():
        entry = entries.get(path)
        if entry is None:
            yield Finding("missing", path, f"of {file.package}")
        elif entry.kind == "file" and file.sha256 not in (None, entry.sha256):
            yield Finding(
                "mismatched", path, f"of {file.package}: expected sha256:{file.sha256}, found sha256:{entry.sha256}"
            )
    for path in generated.keys() - declared.keys() - entries.keys():
        yield Finding("missing", path, "generated when the prefix was made")
    for path in entries.keys() - declared.keys():
        expected = generated.get(path)
        if expected is None:
            yield Finding("extra", path, "no package of the lock brings it")
        elif expected != entries[path].sha256:
            yield Finding(
                "mismatched", path, f"generated: expected sha256:{expected}, found sha256:{entries[path].sha256}"
            )


def generated_files(entries: Mapping[str, Entry], declared: Mapping[str, Declared]) -> dict[str, str]:
    """The files that no archive or wheel brings: byte-code, entry points and the installer's own notes."""
    return {path: entry.sha256 for path, entry in entries.items() if path not in declared}
