"""Debian's words in conda's: the names, versions, platforms and dependencies of a binary package.

Versions are ordered as conda orders them. That is Debian's order for what a distribution publishes one after the other;
it differs where Debian has `~` before a number. Format: deb-control(5), deb-version(7).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from envtool.channel.python_recipe.deb_archive import Deb
from envtool.errors import ArchiveError

_SUBDIRS = {
    "amd64": "linux-64", "arm64": "linux-aarch64", "ppc64el": "linux-ppc64le", "riscv64": "linux-riscv64",
    "s390x": "linux-s390x", "all": "noarch",
}  # fmt: skip
_VERSION = re.compile(r"(?:[0-9]+!)?[0-9][0-9a-z._]*(?:\+[0-9a-z._]+)?")
_DEPENDENCY = re.compile(r"(?P<name>[a-z0-9][a-z0-9.+-]*)(?::\w+)?\s*(?:\(\s*(?P<relation>[<>=]+)[^)]*\))?.*")


@dataclass(frozen=True)
class Dependency:
    """One thing that a package depends on.

    Args:
        names: The Debian packages of which one will do.
        is_exact: Whether it has to be of one version.
    """

    names: tuple[str, ...]
    is_exact: bool


def conda_name(name: str) -> str:
    """The name of a package; conda's names have no plus (`libstdc++6` becomes `libstdcxx6`)."""
    return name.lower().replace("+", "x")


def conda_version(deb: Deb) -> str:
    """The version of a package, with Debian's revision, so that a security update is newer.

    Raises:
        ArchiveError: It cannot be said in conda's words.
    """
    epoch, _, rest = deb.version.rpartition(":")
    main, plus, local = rest.lower().replace("-", "_").replace("~", ".").partition("+")
    # The 1, since letters are older than nothing to conda: deb12u1 would be no update.
    more = f"+1.{local.replace('+', '.1.')}" if plus else ""
    version = f"{f'{epoch}!' if epoch else ''}{main}{more}"
    if not _VERSION.fullmatch(version):
        raise ArchiveError(f"{deb.name} has a version that conda cannot say: {deb.version}")
    return version


def subdir(deb: Deb) -> str:
    """The subdir of a package.

    Raises:
        ArchiveError: conda has none for its architecture.
    """
    architecture = deb.control.get("Architecture", "")
    if architecture not in _SUBDIRS:
        raise ArchiveError(
            f"{deb.name} is for {architecture or 'no architecture'}: only {', '.join(_SUBDIRS)} are known"
        )
    return _SUBDIRS[architecture]


def dependencies(deb: Deb) -> tuple[Dependency, ...]:
    """What a package depends on; what it recommends and suggests is left out.

    Raises:
        ArchiveError: The field is malformed.
    """
    fields = (deb.control.get(name, "") for name in ("Pre-Depends", "Depends"))
    clauses = [clause.strip() for field in fields for clause in field.split(",")]
    return tuple(_dependency(clause, deb.name) for clause in clauses if clause)


def _dependency(clause: str, owner: str) -> Dependency:
    found = [_DEPENDENCY.fullmatch(each.strip()) for each in clause.split("|")]
    matches = [each for each in found if each]
    if len(matches) != len(found):
        raise ArchiveError(f"{owner} has a dependency that is none: {clause}")
    return Dependency(tuple(each["name"] for each in matches), matches[0]["relation"] == "=")
