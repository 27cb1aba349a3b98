"""Where the files of noarch Python packages go (CEP 20)."""

from __future__ import annotations


def place_of(path: str, site_packages: str) -> str:
    """Where a file of a noarch Python package is put, relative to the prefix."""
    if path.startswith("site-packages/"):
        return f"{site_packages}/{path[len('site-packages/') :]}"
    if path.startswith("python-scripts/"):
        return f"bin/{path[len('python-scripts/') :]}"
    return path
