"""An `@EXPLICIT` file: the URL and hash of every archive, for `conda create --file` and `micromamba create -f`.

Source: conda/misc.py, `explicit`, which takes `URL#md5` and `URL#sha256`.
"""

from __future__ import annotations

from collections.abc import Sequence

from envtool.lockfile.conda_lock_v1 import LockedPackage
from envtool.lockfile.git_url import is_repository


def explicit(packages: Sequence[LockedPackage], platform: str, *, with_sha256: bool) -> str:
    """The file, in an order in which every package comes after what it needs."""
    lines = ["# Written by envtool. Wheels are in comments: conda leaves them out.", f"# platform: {platform}"]
    lines.append("@EXPLICIT")
    for each in in_order([each for each in packages if each.manager == "conda"]):
        digits = each.sha256 if with_sha256 else each.md5
        lines.append(f"{each.url}#{digits or each.sha256 or each.md5}")
    for each in packages:
        if each.manager == "pip":
            # pip takes no hash for a repository; the commit stands for it.
            proof = "" if is_repository(each.url) else f" --hash=sha256:{each.sha256}"
            lines.append(f"# pip {each.name} @ {each.url}{proof}")
    return "\n".join(lines) + "\n"


def in_order(packages: Sequence[LockedPackage]) -> list[LockedPackage]:
    """The packages with what each needs before it; by name where that leaves a choice or there is a circle."""
    by_name = {each.name: each for each in sorted(packages, key=lambda each: each.name)}
    ordered: dict[str, LockedPackage] = {}
    for root in by_name:
        todo = [(root, False)]
        seen: set[str] = set()
        while todo:
            name, is_ready = todo.pop()
            if is_ready:
                ordered.setdefault(name, by_name[name])
            elif name not in seen and name not in ordered:
                seen.add(name)
                todo.append((name, True))
                todo += [(each, False) for each in sorted(by_name[name].dependencies, reverse=True) if each in by_name]
    return list(ordered.values())
