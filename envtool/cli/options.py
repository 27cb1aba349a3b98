"""Options that several commands share."""

from __future__ import annotations

import functools
import platform as machine
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from envtool.errors import EnvtoolError
from envtool.prefix.prefix import find_prefix

if TYPE_CHECKING:
    from envtool.lockfile.model import Lockfile

PATH = click.Path(path_type=Path)
file_option = click.option("-f", "--file", "lockfile_path", type=PATH,
                           default=Path("conda-lock.yml"), show_default=True, help="The lockfile.")  # fmt: skip
name_option = click.option("-n", "--name", help="The environment's name, kept under ~/.envtool/envs.")
prefix_option = click.option("-p", "--prefix", "path", type=PATH, help="The environment's directory.")
made_for_option = click.option("--made-for", type=PATH, metavar="PATH",
                               help="The path that its files name: /opt/env in an image.")  # fmt: skip
machine_platform_option = click.option("--platform", help="Which platform of the lock.  [default: this machine's]")
installed_category_option = click.option("--category", "categories", multiple=True, default=("main",),
                                         show_default=True, help="Install this category. Repeatable.")  # fmt: skip
platform_option = click.option("-p", "--platform",
                               help="The platform.  [default: the lock's only one, or this machine's]")  # fmt: skip
category_option = click.option("--category", "categories", multiple=True,
                               help="Only this category. Repeatable.  [default: all]")  # fmt: skip
SHELLS = ("bash", "zsh", "fish")
shell_option = click.option("--shell", type=click.Choice(SHELLS), default="bash", show_default=True, help="The shell.")
attest_option = click.option("--attest", type=PATH, metavar="FILE",
                             help="Also write a signed statement (in-toto, DSSE) to this file.")  # fmt: skip
attest_key_option = click.option("--attest-key", type=PATH, metavar="KEYFILE",
                                 help="The private key for --attest: Ed25519 or ECDSA, in PEM.")  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


def environment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options -n and -p; the command gets the `prefix` that they mean."""

    @name_option
    @prefix_option
    @functools.wraps(command)
    def found(*context: Any, name: str | None, path: Path | None, made_for: Path | None = None, **given: Any) -> Any:
        return command(*context, prefix=find_prefix(name, path, made_for), **given)

    return found


def this_platform() -> str:
    """The conda subdir of this machine. Raises EnvtoolError if it is one that envtool makes no environments on."""
    machines = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}
    subdir = machines.get(machine.machine()) if sys.platform == "linux" else None
    if subdir is None:
        message = f"environments cannot be made on {sys.platform} {machine.machine()}; envtool makes them on Linux"
        raise EnvtoolError(message, "locking for other platforms works: name them under platforms in environment.yml")
    return subdir


def command_line() -> str:
    """The command that runs, as a shell takes it."""
    return shlex.join(["envtool", *sys.argv[1:]])


def chosen_platform(lockfile: Lockfile, platform: str | None) -> str:
    """The platform that the options mean. Raises EnvtoolError if the lock lacks it, or none of several is named."""
    if platform is None and len(lockfile.platforms) == 1:
        return lockfile.platforms[0]
    wanted = platform or this_platform()
    if wanted not in lockfile.platforms:
        raise EnvtoolError(
            f"the lock has nothing for {wanted}; it has {', '.join(lockfile.platforms)}", "name one with --platform"
        )
    return wanted


def chosen_categories(lockfile: Lockfile, categories: tuple[str, ...]) -> tuple[str, ...]:
    """The categories that the options mean, `main` first. Raises EnvtoolError if the lock lacks one."""
    known = sorted({each.category for each in lockfile.packages} | {"main"}, key=lambda each: (each != "main", each))
    unknown = [each for each in categories if each not in known]
    if unknown:
        raise EnvtoolError(f"the lock has no category {', '.join(unknown)}; it has {', '.join(known)}")
    return categories or tuple(known)


def require_attest_key(attest: Path | None, key: Path | None) -> None:
    """Refuse a statement without a key, and a key without a statement."""
    if (attest is None) != (key is None):
        raise click.UsageError("give --attest and --attest-key together")
