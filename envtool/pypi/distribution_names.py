"""The Python distributions that conda packages bring: what a wheel may depend on without bringing it again.

A name comes from the archive itself where it is at hand (a local channel, the cache), then from the purls of the
record, then from a table of the usual differences; else the distribution is called like the package. No service is
asked. What no name tells is found before an environment is made (`envtool.install.distribution_collisions`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from envtool.artifacts.reachable_archives import archive_at_hand
from envtool.pypi.distribution_table import DISTRIBUTION_NAMES

if TYPE_CHECKING:
    from envtool.fetch.archive_cache import Cache
    from envtool.solve.conda_solver import PackageRecord

_PURL = re.compile(r"pkg:pypi/([^@?#]+)")
_END_OF_NAME = re.compile(r"[\s=<>!~\[]")
_VERSION_START = re.compile(r"\d+(?:\.\d+)*")
_READERS = 4


@dataclass(frozen=True)
class Provided:
    """A Python distribution that a conda package brings, with its version as PEP 440 writes it."""

    name: str
    version: str
    record: PackageRecord


def provided_distributions(records: Sequence[PackageRecord], cache: Cache) -> dict[str, Provided]:
    """The Python distributions that conda packages bring, by normalized name; cached archives are read for that."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="archive") as pool:
        own = list(pool.map(lambda record: _in_archive(record, cache), records))
    ranked = [
        (rank, Provided(name, pep440(version), record))
        for record, in_archive in zip(records, own)
        for rank, name, version in (*_by_name(record), *((3, *each) for each in in_archive.items()))
    ]
    # Of two packages that bring one distribution (matplotlib and matplotlib-base), the surer source tells its version.
    return {each.name: each for _, each in sorted(ranked, key=lambda ranked_one: ranked_one[0])}


def distribution_names(conda_name: str) -> tuple[str, ...]:
    """The normalized names that a conda package has among Python distributions, the usual one first."""
    name = normalize(conda_name)
    return DISTRIBUTION_NAMES.get(name, (name,))


def normalize(name: str) -> str:
    """A name in its normal form. Source: PEP 503, "Normalized Names"."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pep440(version: str) -> str:
    """A version of conda's as PEP 440 writes it; else the numbers it starts with (`2024a`)."""
    from packaging.version import InvalidVersion, Version

    try:
        return str(Version(version))
    except InvalidVersion:
        start = _VERSION_START.match(version)
        return start[0] if start else "0"


def _by_name(record: PackageRecord) -> Iterator[tuple[int, str, str]]:
    names = [normalize(unquote(found[1])) for purl in record.purls if (found := _PURL.match(purl))]
    if names:
        yield from ((2, name, record.version) for name in names)
    elif any(_END_OF_NAME.split(spec, maxsplit=1)[0] in ("python", "python_abi") for spec in record.depends):
        is_listed = normalize(record.name) in DISTRIBUTION_NAMES
        yield from ((int(is_listed), name, record.version) for name in distribution_names(record.name))


def _in_archive(record: PackageRecord, cache: Cache) -> Mapping[str, str]:
    from envtool.artifacts.dist_info import distributions_in
    from envtool.errors import ArchiveError

    archive = archive_at_hand(record, cache)
    try:
        return distributions_in(archive) if archive else {}
    except ArchiveError:
        return {}  # told by whoever needs the archive
