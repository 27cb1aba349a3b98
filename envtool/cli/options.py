"""Options that several commands share."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import click

from envtool.errors import EnvtoolError

file_option = click.option("-f", "--file", "lockfile_path", type=click.Path(path_type=Path),
                           default=Path("conda-lock.yml"), show_default=True, help="The lockfile.")  # fmt: skip
name_option = click.option("-n", "--name", help="The environment's name, kept under ~/.envtool/envs.")
prefix_option = click.option("-p", "--prefix", "path", type=click.Path(path_type=Path),
                             help="The environment's directory.")  # fmt: skip
machine_platform_option = click.option("--platform", help="Which platform of the lock.  [default: this machine's]")
installed_category_option = click.option("--category", "categories", multiple=True, default=("main",),
                                         show_default=True, help="Install this category. Repeatable.")  # fmt: skip
SHELLS = ("bash", "zsh", "fish")
shell_option = click.option("--shell", type=click.Choice(SHELLS), default="bash", show_default=True, help="The shell.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


def this_platform() -> str:
    """The conda subdir of this machine.

    Raises:
        EnvtoolError: It is one that envtool makes no environments on.
    """
    machines = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}
    subdir = machines.get(platform.machine()) if sys.platform == "linux" else None
    if subdir is None:
        raise EnvtoolError(
            f"environments cannot be made on {sys.platform} {platform.machine()}; envtool makes them on Linux",
            "locking for other platforms works: name them under platforms in environment.yml",
        )
    return subdir
