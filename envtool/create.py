"""Make a prefix equal to a lock: prove every archive and wheel first, then install what is missing, remove the rest.

A prefix that is not whole (a create was killed) is emptied and made again from the cache, where everything that had
arrived still is: that converges from any state, which mending in place does not.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from envtool import bytecode, conda, wheels
from envtool.archives import fetch_packages, require_sha256
from envtool.conda import LinkRequest
from envtool.contents import conda_packages
from envtool.errors import PrefixError
from envtool.fetch import Cache
from envtool.inventory import env_digest, scan
from envtool.lock import SPECS_KEY, VARIABLES_KEY
from envtool.lockfile import LockedPackage, Lockfile, read_json_metadata
from envtool.prefix import Installed, Prefix, Receipt, State
from envtool.report import Display
from envtool.verify import declared_files, generated_files, placeholders

ENV_DIGEST_VARIABLE = "ENVSERVE_ENV_DIGEST"


@dataclass(frozen=True)
class Plan:
    """What has to change in a prefix.

    Args:
        install: Packages of the lock that are not there, or in another version or build.
        remove: Packages that are there and not in the lock, or in another version or build.
        starts_over: Whether everything is made anew.
    """

    install: tuple[LockedPackage, ...]
    remove: tuple[Installed, ...]
    starts_over: bool

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.install or self.remove or self.starts_over)


@dataclass(frozen=True)
class Outcome:
    """What a create did.

    Args:
        plan: What had to change.
        receipt: The prefix as it is now.
    """

    plan: Plan
    receipt: Receipt


def plan(wanted: Sequence[LockedPackage], receipt: Receipt | None) -> Plan:
    """Decide what has to change.

    Args:
        wanted: The packages of the lock.
        receipt: What is there now, None when nothing is or the prefix is not whole.
    """
    if receipt is None:
        return Plan(tuple(wanted), (), starts_over=True)
    there = set(receipt.packages)
    install = tuple(each for each in wanted if _installed(each) not in there)
    remove = tuple(sorted(there - {_installed(each) for each in wanted}, key=lambda each: (each.manager, each.name)))
    # Another Python means another site-packages: every wheel and all byte-code would have to move.
    replaces_python = any(each.manager == "conda" and each.name == "python" for each in install)
    return (
        Plan(tuple(wanted), remove, starts_over=True) if replaces_python else Plan(install, remove, starts_over=False)
    )


def create(
    lockfile: Lockfile,
    prefix: Prefix,
    platform: str,
    categories: Sequence[str],
    cache: Cache,
    display: Display,
    *,
    command: str,
    starts_over: bool = False,
) -> Outcome:
    """Make a prefix equal to a lock.

    Args:
        lockfile: The lock.
        prefix: The prefix, absent, empty or made by envtool.
        platform: Which of the lock's platforms.
        categories: Which of its categories.
        cache: Where proven archives and wheels are kept.
        display: Where progress is shown.
        command: The command line, for conda's history.
        starts_over: Whether to make everything anew even if nothing seems to have changed.

    Raises:
        LockfileError: The lock has nothing for the platform, or a package without a sha256.
        PrefixError: The directory holds something that is not ours.
        NetworkError, HashMismatchError: An archive could not be had or proven; the prefix was not touched.
    """
    wanted = _wanted(lockfile, platform, categories)
    with prefix.locked():
        whole = prefix.state() is State.WHOLE and not starts_over
        receipt = prefix.receipt() if whole else None
        todo = plan(wanted, receipt)
        if receipt is not None and todo.is_empty:
            return Outcome(todo, receipt)
        proven = fetch_packages(wanted if todo.starts_over else _to_fetch(wanted, todo), cache, display)
        before = [each.description for each in conda_packages(prefix.path)] if whole else []
        prefix.mark_incomplete()
        if todo.starts_over:
            prefix.clear()
        _change(prefix, todo, wanted, proven, platform, display)
        receipt = _receipt(prefix, wanted, platform, categories, cache, display)
        _note(prefix, lockfile, receipt, before, command)
        return Outcome(todo, receipt)


def _wanted(lockfile: Lockfile, platform: str, categories: Sequence[str]) -> tuple[LockedPackage, ...]:
    if platform not in lockfile.platforms:
        raise PrefixError(
            f"the lock has nothing for {platform}; it has {', '.join(lockfile.platforms)}",
            f"add {platform} to the platforms of environment.yml and lock again",
        )
    return lockfile.select(platform, categories)


def _to_fetch(wanted: Sequence[LockedPackage], todo: Plan) -> list[LockedPackage]:
    # py-rattler links the whole conda part in one declarative step, so that it wants every archive when one changes.
    relinks = _changes_conda(todo)
    return [each for each in wanted if each in todo.install or (relinks and each.manager == "conda")]


def _changes_conda(todo: Plan) -> bool:
    managers = [each.manager for each in todo.install] + [each.manager for each in todo.remove]
    return "conda" in managers


def _change(
    prefix: Prefix,
    todo: Plan,
    wanted: Sequence[LockedPackage],
    proven: Mapping[str, Path],
    platform: str,
    display: Display,
) -> None:
    conda_wanted = [each for each in wanted if each.manager == "conda"]
    if _changes_conda(todo):
        with display.task(f"link {len(conda_wanted)} conda packages"), _scratch(prefix, "archives") as scratch:
            requests = [LinkRequest(each.url, require_sha256(each), proven[each.url]) for each in conda_wanted]
            conda.link(requests, prefix.path, platform, scratch)
    gone = [each.name for each in todo.remove if each.manager == "pip"]
    if gone and not todo.starts_over:
        wheels.uninstall(gone, prefix.path)
    new = [each for each in todo.install if each.manager == "pip"]
    if new:
        with display.task(f"install {len(new)} wheels"), _scratch(prefix, "wheels") as scratch:
            by_name = {f"{each.name}=={each.version}": each for each in new}
            paths = {name: proven[each.url] for name, each in by_name.items()}
            wheels.install(paths, {name: require_sha256(each) for name, each in by_name.items()}, prefix.path, scratch)
    if prefix.python.exists():
        with display.task("compile byte-code"):
            bytecode.compile_all(prefix.path, prefix.python)


@contextmanager
def _scratch(prefix: Prefix, name: str) -> Iterator[Path]:
    # Fresh and on the same file system: extracted files are hard-linked into the prefix, and with the directory gone
    # no other environment and no cache shares them, so that an edit in one environment cannot reach another.
    path = prefix.meta / ".scratch" / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path.parent, ignore_errors=True)


def _receipt(
    prefix: Prefix,
    wanted: Sequence[LockedPackage],
    platform: str,
    categories: Sequence[str],
    cache: Cache,
    display: Display,
) -> Receipt:
    declared = declared_files(prefix, wanted, cache, display)
    with display.task("read every file for the env digest"):
        entries = scan(prefix.path, placeholders(declared))
    return Receipt(
        platform=platform,
        categories=tuple(categories),
        packages=tuple(_installed(each) for each in wanted),
        env_digest=env_digest(entries.values()),
        generated=generated_files(entries, declared),
    )


def _note(prefix: Prefix, lockfile: Lockfile, receipt: Receipt, before: Sequence[str], command: str) -> None:
    variables = read_json_metadata(lockfile, VARIABLES_KEY) or {}
    prefix.set_variables({**variables, ENV_DIGEST_VARIABLE: receipt.env_digest})
    after = [each.description for each in conda_packages(prefix.path)]
    prefix.write_history(command, before, after, _requested(lockfile, receipt))
    prefix.complete(receipt)
    prefix.register()


def _requested(lockfile: Lockfile, receipt: Receipt) -> Sequence[str]:
    specs: dict[str, list[str]] = read_json_metadata(lockfile, SPECS_KEY) or {}
    if receipt.platform in specs:
        return specs[receipt.platform]
    # A lock of another tool does not say what was asked for: whatever nothing else needs was.
    packages = [each for each in lockfile.select(receipt.platform, receipt.categories) if each.manager == "conda"]
    needed = {name for each in packages for name in each.dependencies}
    return [f"{each.name}={each.version}" for each in packages if each.name not in needed]


def _installed(package: LockedPackage) -> Installed:
    return Installed(package.manager, package.name, package.version, package.sha256 or "")
