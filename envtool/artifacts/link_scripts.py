"""Link scripts: programs that a conda package wants run when it is linked or unlinked. envtool runs none of them.

What they do is in no archive and no lock: they may write anywhere, and differently on every machine. Source: the
conda package specification (CEP 34), docs/reference/archives.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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


def sentence(name: str, paths: Iterable[str]) -> str:
    """What there is to say of the link scripts of one package."""
    return f"{name} has link scripts, which envtool does not run: {', '.join(paths)}"
