"""Options that select a part of a lock."""

from __future__ import annotations

import click

from envtool.cli.options import this_platform
from envtool.errors import EnvtoolError
from envtool.lockfile.conda_lock_v1 import Lockfile

platform_option = click.option("-p", "--platform",
                               help="The platform.  [default: the lock's only one, or this machine's]")  # fmt: skip
category_option = click.option("--category", "categories", multiple=True,
                               help="Only this category. Repeatable.  [default: all]")  # fmt: skip


def chosen_platform(lockfile: Lockfile, platform: str | None) -> str:
    """The platform that the options mean.

    Raises:
        EnvtoolError: The lock does not have it, or has several and none is named.
    """
    if platform is None and len(lockfile.platforms) == 1:
        return lockfile.platforms[0]
    wanted = platform or this_platform()
    if wanted not in lockfile.platforms:
        raise EnvtoolError(
            f"the lock has nothing for {wanted}; it has {', '.join(lockfile.platforms)}", "name one with --platform"
        )
    return wanted


def chosen_categories(lockfile: Lockfile, categories: tuple[str, ...]) -> tuple[str, ...]:
    """The categories that the options mean; `main` comes first.

    Raises:
        EnvtoolError: The lock does not have one of them.
    """
    known = sorted({each.category for each in lockfile.packages} | {"main"}, key=lambda each: (each != "main", each))
    unknown = [each for each in categories if each not in known]
    if unknown:
        raise EnvtoolError(f"the lock has no category {', '.join(unknown)}; it has {', '.join(known)}")
    return categories or tuple(known)
