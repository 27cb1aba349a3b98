"""Packages of other people beside those of the interpreter that runs the tests, for processes that are started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from serving import ROOT

from tests.support.environments import make_environment


def packages_beside(directory: Path, requirements: Sequence[str], alone: Sequence[str] = ()) -> dict[str, str]:
    """Return the variables with which a process finds these packages, after all that it has itself.

    Args:
        directory: an empty one, or one that has no sitecustomize.py.
        requirements: of pip, with all that they need.
        alone: of pip, without.
    """
    (site,) = make_environment(requirements, alone).parents[1].glob("lib/python3*/site-packages")
    (directory / "sitecustomize.py").write_text(f"import sys\nsys.path.append({str(site)!r})\n")
    # Packages that were installed without byte-code would be compiled by each process.
    cache = {"PYTHONPYCACHEPREFIX": str(site.parents[2] / "pycache"), "PYTHONDONTWRITEBYTECODE": ""}
    return {"PYTHONPATH": f"{ROOT}:{directory}", **cache}
