"""`envtool bundle`: an environment in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from envtool import console, paths, policy
from envtool.bundle import bundle as bundles
from envtool.bundle import envtool_wheels
from envtool.cli import CommandGroup, options
from envtool.cli.create import as_told, say_made, say_outcome
from envtool.fetch.archive_cache import Cache
from envtool.install.request import Request
from envtool.lockfile.conda_lock_v1 import read_lockfile
from envtool.prefix.prefix import Prefix

_trusted_option = click.option("--key", "key_files", type=options.PATH, multiple=True, metavar="PEM",
    help="A public key that must have signed it. Repeatable.  [default: the keys that this machine trusts]",
)  # fmt: skip


@click.group("bundle", cls=CommandGroup)
def command() -> None:
    """Carry an environment to a machine without a network.

    A bundle is one file, or a directory for rsync: a lock, all its archives and wheels, and envtool itself. The other
    machine needs Linux with glibc 2.28 or newer and a Python that the bundle was made for, and nothing else.

    \b
    Example:
      envtool bundle create -o serving.pyz        here
      python3 serving.pyz -n serving              there
    """


@command.command()
@options.file_option
@click.option("-o", "--output", type=options.PATH, required=True, help="The file or directory to make.")
@click.option("--directory", is_flag=True, help="Make a directory; files that are right already stay as they are.")
@click.option("--platform", "platforms", multiple=True, help="Which platform of the lock. Repeatable.  [default: the "
              "lock's only one, or this machine's]")  # fmt: skip
@click.option("--category", "categories", multiple=True, default=("main",), show_default=True,
              help="Take this category. Repeatable.")  # fmt: skip
@click.option("--python", "pythons", multiple=True, metavar="X.Y",
              help="A Python that the other machine may have, to run envtool. Repeatable.  [default: 3.9 to 3.14]",
)  # fmt: skip
@click.option("--tools", "tools_path", type=options.PATH, metavar="FILE",
              help="Keep the choice of envtool's own wheels in this file, and take it from there if it is there: the "
              "bundle is then the same whenever it is made.")  # fmt: skip
@click.option("--key", "key_file", type=options.PATH, metavar="PEM", help="Sign it with this private key (Ed25519).")
@options.json_option
def create(
    lockfile_path: Path, output: Path, directory: bool, platforms: tuple[str, ...], categories: tuple[str, ...],
    pythons: tuple[str, ...], tools_path: Path | None, key_file: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Make a bundle of a lock.

    Every archive and wheel is proven against the lock first. The same lock, envtool and choice of tools give the same
    bytes.

    \b
    Examples:
      envtool bundle create -o serving.pyz
      envtool bundle create -o /media/usb/serving --directory --python 3.9 --key team.pem
    """
    order = bundles.Order(
        lockfile_path=lockfile_path,
        platforms=platforms or (options.chosen_platform(read_lockfile(lockfile_path), None),), categories=categories,
        pythons=pythons or envtool_wheels.PYTHONS, tools_path=tools_path, key_file=key_file,
    )  # fmt: skip
    with console.ProgressDisplay() as display:
        made = bundles.create(order, output, Cache(paths.cache()), display, as_directory=directory)
    if as_json:
        facts = {"path": str(made.path), "sha256": made.sha256, "is_signed": made.is_signed}
        console.answer_json({**facts, **_described(made.manifest)})
        return
    console.say(f"{output}: {len(made.manifest.files)} files, {console.size(made.manifest.size_bytes)}")
    console.say(f"there: python3 {output / 'install.pyz' if directory else output.name} -n NAME")
    console.answer(f"{made.sha256}  {output / 'manifest.json' if directory else output}")


@command.command()
@click.argument("bundle", type=options.PATH)
@options.environment_options
@click.option("--category", "categories", multiple=True, help="Install this category. Repeatable.  [default: all that "
              "the bundle has]")  # fmt: skip
@options.machine_platform_option
@click.option("--force", is_flag=True, help="Make everything anew, even if nothing seems to have changed.")
@click.option("--frozen", is_flag=True, help="Mark the environment so that conda does not change it (CEP 22).")
@_trusted_option
@options.json_option
def install(
    bundle: Path, prefix: Prefix, categories: tuple[str, ...], platform: str | None, force: bool, frozen: bool,
    key_files: tuple[Path, ...], as_json: bool,
) -> None:  # fmt: skip
    """Make an environment from a bundle; no network is used.

    Every file is proven before anything in the environment is touched. The proven files stay in envtool's cache, where
    `envtool verify` needs them.

    \b
    Examples:
      envtool bundle install serving.pyz -n serving
      python3 serving.pyz -n serving              the same where no envtool is
    """
    trusted = bundles.open_trusted(bundle, key_files)
    request = Request(
        lockfile=trusted.lockfile, platform=platform or options.this_platform(),
        categories=categories or trusted.bundle.manifest.categories, command=options.command_line(), starts_over=force,
        is_frozen=frozen, is_vouched=trusted.key is not None,
    )  # fmt: skip
    policy.require(request, None)
    with console.ProgressDisplay() as display:
        outcome = bundles.install(trusted, request, prefix, Cache(paths.cache()), display)
    digest = outcome.receipt.env_digest
    policy.require(request, None, digest)
    say_outcome(outcome)
    if as_json:
        head = {"prefix": str(prefix.path), "changed": not outcome.plan.is_empty, "env_digest": digest}
        console.answer_json({**head, **as_told(outcome), "key": trusted.key})
    else:
        say_made(outcome.plan, prefix, digest)


@command.command()
@click.argument("bundle", type=options.PATH)
@_trusted_option
@options.json_option
def verify(bundle: Path, key_files: tuple[Path, ...], as_json: bool) -> None:
    """Compare every file of a bundle with its manifest.

    Nothing is installed.
    """
    trusted = bundles.open_trusted(bundle, key_files)
    with console.ProgressDisplay() as display, display.task(f"read {bundle}", in_bytes=True) as task:
        bundles.verify(trusted.bundle, task)
    if as_json:
        console.answer_json({"path": str(bundle), **_described(trusted.bundle.manifest), "key": trusted.key})
    else:
        by = f", signed by {trusted.key}" if trusted.key else ""
        console.say(f"{bundle} is whole: {len(trusted.bundle.manifest.files)} files{by}")


def _described(manifest: Any) -> dict[str, Any]:
    pythons = {platform: list(pythons) for platform, pythons in manifest.tools.items()}
    return {
        "platforms": list(manifest.platforms), "categories": list(manifest.categories), "pythons": pythons,
        "files": len(manifest.files), "size_bytes": manifest.size_bytes,
    }  # fmt: skip
