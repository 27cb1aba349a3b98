"""`envtool doctor`."""

from __future__ import annotations

import contextlib
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from envtool import console
from envtool import paths as directories
from envtool.artifacts.file_manifest import cached_paths
from envtool.cli.options import file_option, json_option, machine_platform_option, this_platform
from envtool.doctor.checks import check, link_scripts
from envtool.doctor.machine_facts import Needs, Severity, detect, needs
from envtool.errors import ArchiveError
from envtool.fetch.archive_cache import Cache
from envtool.inspect_lock.package_metadata import cached_file, look_up
from envtool.install.preconditions import unpacked_bytes
from envtool.lockfile.conda_lock_v1 import LINK_SCRIPTS_KEY, LockedPackage, read_json_metadata
from envtool.mirrors.mirrors import presets
from envtool.solve.md5_completion import read_complete


@click.command("doctor")
@file_option
@machine_platform_option
@click.option("--offline", is_flag=True, help="Use no network: no proxy, no mirror, no clock.")
@click.option("--limit", "limit_s", type=click.FloatRange(min=0.1), default=8.0, show_default=True, metavar="SECONDS",
              help="When to stop waiting for mirrors.")  # fmt: skip
@json_option
@click.pass_context
def command(
    ctx: click.Context, lockfile_path: Path, platform: str | None, offline: bool, limit_s: float, as_json: bool
) -> None:
    """Find what about this machine would make an environment fail.

    The driver against the CUDA that the lock is built for, the C library, disks, permissions, file events, locale,
    certificates, proxies, mirrors, the clock, and settings of conda, pip and Python that reach into an environment.
    Without a lock only the machine itself is looked at.

    Exit code 1 when something would fail, 0 when there is nothing worse than warnings.
    """
    packages: list[LockedPackage] = []
    allowed = None
    if lockfile_path.exists() or lockfile_path != Path("conda-lock.yml"):
        lockfile = read_complete(lockfile_path, is_offline=offline)
        packages = [each for each in lockfile.packages if each.platform == (platform or this_platform())]
        allowed = read_json_metadata(lockfile, LINK_SCRIPTS_KEY)
    cache = Cache(directories.cache())
    with console.ProgressDisplay() as display, display.task("look at this machine"):
        urls = [each.url for each in packages]
        facts = detect(urls, list(presets().values()), None if offline else limit_s)
    archives = {package.name: cached_file(package, cache) for package in packages if package.manager == "conda"}
    scripts = link_scripts({name: cached_paths(path) for name, path in archives.items() if path}, allowed or [])
    found = [*check(facts, _needs(packages, facts.virtual_packages, cache)), *scripts]
    used = str(lockfile_path) if packages else None
    if as_json:
        rows = [{**asdict(each), "severity": each.severity.value} for each in found]
        console.answer_json({"findings": rows, "lockfile": used})
    else:
        for each in found:
            console.answer(f"{each.severity.value:8} {each.check:13} {each.message}\n{'':22} hint: {each.hint}")
        counts = (f"{sum(each.severity is kind for each in found)} {kind.value}s" for kind in Severity)
        console.say(f"{', '.join(counts)}, {f'against {used}' if used else 'without a lock'}")
    ctx.exit(1 if any(each.severity is Severity.ERROR for each in found) else 0)


def _needs(packages: list[LockedPackage], detected: Any, cache: Cache) -> Needs:
    cached = {}
    for package in packages:
        # A damaged file will be downloaded again.
        with contextlib.suppress(OSError, ArchiveError, zipfile.BadZipFile):
            if path := cached_file(package, cache):
                cached[package.url] = unpacked_bytes(path)
    # Most locks say the sizes; what one does not say, this machine may know from a channel's index.
    unknown = [each for each in packages if each.size_bytes is None and each.url not in cached]
    known = {url: each.size_bytes for url, each in look_up(unknown, is_offline=True).items()}
    known.update((each.url, each.size_bytes) for each in packages if each.size_bytes is not None)
    return needs(packages, detected, {url: size for url, size in known.items() if size is not None}, cached)
