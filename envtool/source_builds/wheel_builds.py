"""Wheels of git commits: the same bytes on every machine from the locked files and tools, or an error. What backends
let vary (times, modes, order, compression) is made equal afterwards. Out of scope: compiled wheels."""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from packaging.utils import canonicalize_name

from envtool import toml
from envtool.artifacts.conda_package import Entry
from envtool.artifacts.download import fetch_packages, require_sha256
from envtool.console import ProgressDisplay, Task
from envtool.errors import CacheError, HashMismatchError, Issue, LockfileError, ProcessError, SolveError
from envtool.fetch.archive_cache import Cache, Wanted, sha256_of
from envtool.fetch.downloader import fetch
from envtool.lockfile import model
from envtool.lockfile.model import LockedPackage, Repository, SourceBuild, Tool, parse_repository
from envtool.mirrors.mirrors import Mirrors
from envtool.pypi import uv
from envtool.scratch import scratch_directory
from envtool.source_builds import git
from envtool.wheels.reader import Wheel, format_record, record_hash

_DEFAULT_REQUIREMENTS = ("setuptools>=40.8.0",)
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
# Backends that take the version from git's tags take it from these instead.
_VERSION_VARIABLES = ("SETUPTOOLS_SCM_PRETEND_VERSION", "PDM_BUILD_SCM_VERSION")
_HINT = "the project's own build failed; is it one that `pip wheel` can build from this revision?"


def build_wheel(project: Path, tools: Path, committed_at: int, scratch: Path, version: str | None = None) -> Path:
    """Build a pure-Python wheel by the clock of the commit, in seconds since 1970. Raises SolveError."""
    scratch.mkdir()
    argv = ["build", "--wheel", "--quiet", "--no-config", "--offline", "--no-index", "--find-links", str(tools)]
    argv += ["--python", sys.executable, "--cache-dir", str(scratch / "cache"), "--out-dir", str(scratch / "built")]
    # What this user has set for uv, pip and Python would make the wheel this machine's.
    foreign = {name: "" for name in os.environ if name.startswith(("UV_", "PIP_", "PYTHON", "SETUPTOOLS_", "HATCH_"))}
    told = dict.fromkeys(_VERSION_VARIABLES, version or "")
    fixed = {"SOURCE_DATE_EPOCH": str(committed_at), "PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    try:
        uv.run([*argv, str(project)], env={**foreign, **told, **fixed}, cwd=scratch)
    except ProcessError as error:
        raise SolveError(f"the wheel of {project.name} cannot be built:\n{error.output}", _HINT) from error
    made = next((scratch / "built").glob("*.whl"))
    wheel = Wheel.read(made)
    if wheel.compiled_tags() is not None:
        hint = "build the wheel once, put it where all can get it, and write NAME @ URL"
        raise SolveError(f"{made.name} is not pure Python: what a compiler makes is other bytes on every machine", hint)
    return _equalized(wheel, scratch / made.name)


def name_and_version(wheel: str) -> tuple[str, str]:
    """The normalized name and the version in the name of a wheel's file. Source: PEP 427, "File name"."""
    name, version = wheel.split("-")[:2]
    return canonicalize_name(name), version.replace("_", "-")


def _equalized(wheel: Wheel, target: Path) -> Path:
    """The same files in a fixed order, with fixed times and modes, uncompressed: zlib's output varies."""
    record = f"{wheel.dist_info}/RECORD"
    others = [entry for entry in wheel.members.values() if entry.path != record]
    entries = sorted(others, key=lambda entry: (".dist-info/" in entry.path, entry.path))
    rows = [(entry.path, *record_hash(entry)) for entry in entries]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for entry in (*entries, Entry(record, format_record([*rows, (record, "", "")]))):
            info = zipfile.ZipInfo(entry.path, _ZIP_TIME)
            info.create_system = _UNIX
            info.external_attr = (0o100755 if entry.is_executable else 0o100644) << 16
            archive.writestr(info, entry.content)
    return target


_OTHER_BYTES = (
    "the files and the tools are the locked ones, but Python {python} on this machine builds other bytes of them; "
    "build the wheel once, put it where all can get it, and write NAME @ URL"
)


def rebuild(
    package: LockedPackage, cache: Cache, display: ProgressDisplay, *, mirrors: Mirrors | None = None,
    is_offline: bool = False,
) -> Path:  # fmt: skip
    """The wheel of a locked commit, from the cache or built again. Raises HashMismatchError if its files or the wheel
    are not the locked ones, LockfileError if the lock does not state how it was built, SolveError if it cannot be built
    here."""
    wanted = Wanted(package.file_name, require_sha256(package), ())
    found = cache.find(wanted)
    if found:
        return found
    repository, built = parse_repository(package.url), package.built
    if is_offline:
        hint = "run the same command once without --offline, where there is a network"
        raise CacheError(f"{package.file_name} is not in the cache {cache.root}", hint)
    if built is None or repository.commit is None:
        issue = Issue(f"{package.name} {package.version}", f"the lock does not say how {package.url} is built")
        raise LockfileError("the lock", [issue], "envtool lock writes one that does")
    with display.task(f"build {package.name} from {repository.shown}") as task, scratch_directory() as scratch:
        tools = tool_directory(built.tools, scratch / "tools", cache, display, mirrors)
        checkout = Checkout(repository, scratch / "checkout")
        if checkout.tree_sha256 != built.tree_sha256:
            shown = f"what {repository.shown} has at {repository.commit}"
            raise HashMismatchError(shown, f"sha256:{built.tree_sha256}", f"sha256:{checkout.tree_sha256}")
        made = checkout.build(tools, built.version)
        sha256 = sha256_of(made)
        if sha256 != package.sha256:
            python = ".".join(str(part) for part in sys.version_info[:2])
            raise HashMismatchError(
                made.name, f"sha256:{package.sha256}", f"sha256:{sha256}", _OTHER_BYTES.format(python=python)
            )
        return store(made, sha256, cache, task)


class Checkout:
    """The files of one commit in a directory of its own."""

    def __init__(self, repository: Repository, scratch: Path) -> None:
        scratch.mkdir(parents=True)
        self.repository = repository
        self._scratch = scratch
        root = scratch / repository.name
        git.check_out(repository, repository.commit or "", root)
        self.project = root / repository.subdirectory
        if not self.project.is_dir():
            raise SolveError(f"{repository.shown} has no directory {repository.subdirectory!r}")
        self.committed_at = git.committed_at(root)
        self.tree_sha256 = git.tree_sha256(root)  # before anything of it runs

    @classmethod
    def of_revision(cls, repository: Repository, scratch: Path) -> Checkout:
        """The commit that a repository has for its revision now."""
        return cls(repository.at(git.resolve(repository)), scratch)

    def requirements(self) -> tuple[str, ...]:
        """What the project's build asks for (PEP 518). Raises SolveError if there is nothing to build."""
        project = self.project
        path = project / "pyproject.toml"
        if not path.exists() and not (project / "setup.py").exists():
            raise SolveError(
                f"{project.name} has neither pyproject.toml nor setup.py", "#subdirectory= states where it is"
            )
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            stated = toml.loads(text).get("build-system", {}).get("requires", _DEFAULT_REQUIREMENTS)
        except (toml.TOMLDecodeError, UnicodeDecodeError, AttributeError) as error:
            raise SolveError(f"{project.name}/pyproject.toml cannot be read: {error}") from error
        # Older setuptools ask for wheel only while they run, when nothing more can be had.
        more = ["wheel"] if any(re.match(r"setuptools\b", each, re.IGNORECASE) for each in stated) else []
        return tuple(dict.fromkeys([*stated, *more]))

    def describe(self, made: Path, tools: tuple[Tool, ...]) -> tuple[str, SourceBuild]:
        """The name of a wheel that was built of these files, and how it was built."""
        name, version = name_and_version(made.name)
        return name, SourceBuild(made.name, version, self.tree_sha256, self.committed_at, tools)

    def build(self, tools: Path, version: str) -> Path:
        """The wheel of these files."""
        return build_wheel(self.project, tools, self.committed_at, self._scratch / "build", version)

    def version(self, tools: Path) -> str:
        """The version as the backend states it, which may ask the history for it."""
        root = self._scratch / "history" / self.repository.name
        git.clone(self.repository, self.repository.commit or "", root)
        made = build_wheel(root / self.repository.subdirectory, tools, self.committed_at, self._scratch / "versioned")
        return name_and_version(made.name)[1]


def tool_directory(
    tools: Sequence[Tool], directory: Path, cache: Cache, display: ProgressDisplay, mirrors: Mirrors | None
) -> Path:
    """Make a directory with the locked build tools of a wheel."""
    directory.mkdir()
    packages = [LockedPackage("pip", each.name, each.version, "", each.url, each.sha256) for each in tools]
    for path in fetch_packages(packages, cache, display, mirrors=mirrors).values():
        (directory / path.name).symlink_to(path)
    return directory


def store(made: Path, sha256: str, cache: Cache, progress: Task) -> Path:
    """Put a wheel that was just built into the cache."""
    wanted = Wanted(made.name, sha256, (made.as_uri(),))
    return fetch([wanted], cache, progress)[wanted]


def fetch_or_build(
    packages: Sequence[LockedPackage], cache: Cache, display: ProgressDisplay, *, is_offline: bool = False
) -> dict[str, Path]:
    """The archives and wheels of a lock in the cache, by URL. Raises SolveError, or as `fetch_packages`."""
    from_git = [each for each in packages if model.is_repository(each.url)]
    others = [each for each in packages if each not in from_git]
    found = fetch_packages(others, cache, display, is_offline=is_offline)
    return {**found, **{each.url: rebuild(each, cache, display, is_offline=is_offline) for each in from_git}}
