"""Link scripts: programs that a conda package wants run when it is linked or unlinked.

What they do is in no archive and no lock: they may write anywhere, and differently on every machine. envtool runs the
post-link scripts of those packages that `run-link-scripts` in environment.yml names, and no others. Source: the conda
package specification (CEP 34), docs/reference/archives.md.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from envtool.artifacts.file_manifest import Declared

_SCRIPT = re.compile(r"bin/\.[^/]+-(?:pre-link|post-link|pre-unlink)\.sh")


def is_link_script(path: str) -> bool:
    """Whether a path of a package is that of a link script."""
    return _SCRIPT.fullmatch(path) is not None


def link_scripts(declared: Mapping[str, Declared]) -> dict[str, list[str]]:
    """The link scripts of a prefix, by conda package."""
    found: dict[str, list[str]] = {}
    for path, file in declared.items():
        if file.package[0] == "conda" and is_link_script(path):
            found.setdefault(file.package[1], []).append(path)
    return {name: sorted(paths) for name, paths in sorted(found.items())}


def post_link_script(name: str) -> str:
    """The path of the script that a package wants run after it was linked."""
    return f"bin/.{name}-post-link.sh"


def split(found: Mapping[str, Iterable[str]], allowed: Collection[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Link scripts by package as those that are not run and those that are, when scripts of some packages may run."""
    run = [
        post_link_script(name) for name, paths in found.items() if name in allowed and post_link_script(name) in paths
    ]
    left = {name: [path for path in paths if path not in run] for name, paths in found.items()}
    return {name: paths for name, paths in left.items() if paths}, run


def sentence(name: str, paths: Iterable[str]) -> str:
    """What there is to say of the link scripts of one package."""
    return f"{name} has link scripts, which envtool does not run: {', '.join(paths)}"
