"""`envtool export`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from envtool import console
from envtool.atomic_files import write_atomically
from envtool.cli.options import PATH, category_option, chosen_categories, chosen_platform, file_option, platform_option
from envtool.errors import EnvtoolError
from envtool.export.conda import conda_only, environment_yml, explicit
from envtool.export.sbom import SPECIFICATIONS, BomRequest, bill_of_materials, prefix_bom
from envtool.lockfile.conda_lock_v1 import VARIABLES_KEY, format_lockfile, read_json_metadata, read_lockfile
from envtool.lockfile.pylock import format_pylock
from envtool.solve.content_hash import virtual_package_specification
from envtool.solve.lock import VIRTUAL_PACKAGES_KEY
from envtool.yaml_document import dump

_FORMATS = ("environment", "explicit", "conda-lock", "pylock", "cyclonedx", "virtual-packages")


@click.command("export")
@click.argument("kind", metavar="FORMAT", type=click.Choice(_FORMATS))
@file_option
@platform_option
@category_option
@click.option("-o", "--output", type=PATH, help="Where to write.  [default: standard output]")
@click.option("-n", "--name", help="The environment's name, for environment and cyclonedx.")
@click.option("--no-builds", is_flag=True, help="environment: pin versions only, so that other platforms can use it.")
@click.option("--sha256", is_flag=True, help="explicit: give SHA-256 instead of MD5.")
@click.option("--spec", type=click.Choice(SPECIFICATIONS), default=SPECIFICATIONS[0], show_default=True,
              help="cyclonedx: the version of the specification.")  # fmt: skip
@click.option("--prefix", type=PATH, help="cyclonedx: what this environment has, not the lock.")
@click.option("--offline", is_flag=True, help="cyclonedx: ask only this machine for licences.")
def command(
    kind: str, lockfile_path: Path, platform: str | None, categories: tuple[str, ...], output: Path | None,
    name: str | None, no_builds: bool, sha256: bool, spec: str, prefix: Path | None, offline: bool,
) -> None:  # fmt: skip
    """Write a lock in the format of another tool.

    \b
    FORMAT is one of:
      environment       a pinned environment.yml: conda env create -f FILE
      explicit          URLs and hashes: conda create -n NAME --file FILE
      conda-lock        the lock without its wheels, for readers that refuse them
      pylock            the wheels as pylock.toml: uv pip install -r FILE, pip install -r FILE
      cyclonedx         a bill of materials with hashes and licences (CycloneDX, JSON)
      virtual-packages  the declared virtual packages, for conda-lock's --virtual-package-spec
    """
    if prefix is not None:
        if kind != "cyclonedx":
            raise click.UsageError("--prefix is for cyclonedx")
        _write(prefix_bom(prefix, name or prefix.absolute().name, spec), output)
        return
    lockfile = read_lockfile(lockfile_path)
    is_whole = kind in ("conda-lock", "virtual-packages")
    chosen = "" if is_whole else chosen_platform(lockfile, platform)
    selected = () if is_whole else chosen_categories(lockfile, categories)
    packages = list({(e.manager, e.name): e for e in lockfile.select(chosen, selected)}.values())
    if kind == "environment":
        text = environment_yml(lockfile, packages, name, VARIABLES_KEY, with_builds=not no_builds)
    elif kind == "explicit":
        text = explicit(packages, chosen, with_sha256=sha256)
    elif kind == "pylock":
        python = next((each.version for each in packages if (each.manager, each.name) == ("conda", "python")), None)
        wheels = [replace(each, size_bytes=None) for each in packages if each.manager == "pip"]
        text = format_pylock(wheels, f"=={'.'.join(python.split('.')[:2])}.*" if python else None)
    elif kind == "cyclonedx":
        title = name or lockfile_path.absolute().parent.name
        text = bill_of_materials(BomRequest(lockfile, chosen, selected, title, spec), is_offline=offline)
    elif kind == "conda-lock":
        text = format_lockfile(conda_only(lockfile))
    else:
        declared = read_json_metadata(lockfile, VIRTUAL_PACKAGES_KEY)
        if declared is None:
            raise EnvtoolError("the lock does not say its virtual packages", "envtool lock writes a lock that does")
        text = dump(virtual_package_specification(declared))
    _write(text, output)


def _write(text: str, output: Path | None) -> None:
    if output:
        write_atomically(output, text)
        console.say(f"wrote {output}")
    else:
        console.answer(text.rstrip("\n"))
