"""The names that conda packages have among Python distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envtool.solve.conda_solver import PackageRecord

# Distributions that go by another name on conda; everywhere else the names are the same.
_DISTRIBUTION_NAMES = {"pytorch": "torch", "pytorch-cpu": "torch", "pytorch-gpu": "torch"}


def provided_distributions(records: Sequence[PackageRecord]) -> Mapping[str, str]:
    """The Python distributions that conda packages bring, name to version."""
    brought = (each for each in records if any(spec.split()[0] in ("python", "python_abi") for spec in each.depends))
    return {distribution_name(each.name): each.version for each in brought}


def distribution_name(conda_name: str) -> str:
    """The normalized name that a conda package has among Python distributions."""
    return _DISTRIBUTION_NAMES.get(conda_name, conda_name).replace("_", "-").replace(".", "-")
