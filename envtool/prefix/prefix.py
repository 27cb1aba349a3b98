"""A prefix: the directory of one environment, its state and notes. One of ours has a receipt, `conda-meta/envserve`,
written last (without `.json`, as conda takes every such file for a package; docs/adr/0003), and while a command changes
it the mark `conda-meta/.incomplete`."""

from __future__ import annotations

import enum
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from envtool import file_lock, paths
from envtool.atomic_files import write_atomically
from envtool.console import say
from envtool.errors import MissingFileError, PrefixError

RECEIPT_FORMAT = 1
ENV_DIGEST_VARIABLE = "ENVSERVE_ENV_DIGEST"
# Linux before 5.1 reads 127 bytes of a script's first line, and installers fall back to other first lines for a longer
# one or one with a space; those would make the same lock differ from directory to directory.
LONGEST_PATH_BYTES = 127 - len("#!/bin/python3.99\n")
# A first line ends at a space, PATH at a colon, and quotes, backslashes and bytes that are no text end or change the
# strings of the Python files, such as sysconfig's, that a package's placeholder stands in.
_UNFIT = re.compile(r"[\s:'\"\\\x00-\x1f\x7f\udc80-\udcff]")


def find_unfit(path: Path) -> str | None:
    """Say what in a path no environment can have, in the first line of a script or in a file that names it."""
    found = _UNFIT.search(str(path))
    return f"{path} has {found[0]!r} in it, which the scripts of packages cannot have" if found else None


class State(enum.Enum):
    """What a directory is to envtool."""

    ABSENT = "absent"
    EMPTY = "empty"
    WHOLE = "whole"
    INCOMPLETE = "incomplete"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Installed:
    """One package as the receipt notes it."""

    manager: str
    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Receipt:
    """What envtool put into a prefix."""

    platform: str
    categories: tuple[str, ...]
    packages: tuple[Installed, ...]
    env_digest: str | None  # None for an image's tree that is not the running image: none of its layers states it
    # Files of which no archive or wheel has the bytes (byte-code, scripts), path to sha256.
    generated: Mapping[str, str]
    link_scripts: tuple[str, ...] = ()  # the packages whose link scripts were run, as the lock allows


class Prefix:
    """The directory of one environment; absolute and without links, since its path is written into its files.
    `made_for` is the path in its files, where it was made for another place, as in an image."""

    def __init__(self, path: Path, made_for: Path | None = None) -> None:
        self.path = path.expanduser().resolve()
        self.named = made_for or self.path
        self.meta = self.path / "conda-meta"
        self._receipt, self._parts = self.meta / "envserve", self.meta / "envserve.d"
        self._mark = self.meta / ".incomplete"
        self._lock = self.meta / ".envtool.lock"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    @property
    def is_active(self) -> bool:
        """Whether this process runs in it, activated or in its image, so that the variables state its digest."""
        return os.environ.get("CONDA_PREFIX") == str(self.path)

    def site_packages(self) -> str:
        """Where Python packages go, relative to the prefix; as good as any place when it has no Python."""
        found = sorted(self.path.glob("lib/python3.*/site-packages"))
        return str(found[0].relative_to(self.path)) if found else "lib/python3/site-packages"

    def state(self) -> State:
        """What the directory is now."""
        if not self.path.exists():
            return State.ABSENT
        if not self.path.is_dir():
            return State.FOREIGN
        # Looked at before the marks: another envtool may be at work, and what it put here has a mark from before the
        # first file until after the receipt.
        inside = {path.name for path in self.path.iterdir()} - {self.meta.name}
        # The lock, the mark, and what a mark is written to before it has its name.
        marks = (self._lock.name, self._mark.name, f".{self._mark.name}.")
        known = not self.meta.exists() or all(each.name.startswith(marks) for each in self.meta.iterdir())
        is_empty = known and not inside
        if self._mark.exists():
            return State.INCOMPLETE
        if self._receipt.exists():
            return State.WHOLE
        return State.EMPTY if is_empty else State.FOREIGN

    @contextmanager
    def locked(self, is_going: bool = False) -> Iterator[None]:
        """Hold the prefix alone; a second process waits. Raises PrefixError if it is not ours, cannot be written, or
        has a path that no environment can have, unless it is going to be removed."""
        self.refuse_foreign()
        length = len(os.fsencode(self.path))
        if length > LONGEST_PATH_BYTES and not is_going:
            raise PrefixError(
                f"{self.path} is too long for the first line of a script: "
                f"expected at most {LONGEST_PATH_BYTES} bytes, found {length}",
                "choose a shorter path with -p",
            )
        unfit = find_unfit(self.path)
        if unfit and not is_going:
            raise PrefixError(unfit, "choose another place with -p, or with ENVTOOL_HOME")
        with ExitStack() as stack:
            try:
                self.meta.mkdir(parents=True, exist_ok=True)
                stack.enter_context(file_lock.hold(self._lock, self.path))
            except OSError as error:
                message = f"{self.path} cannot be written: {error.strerror}"
                raise PrefixError(message, "choose another place with -p") from error
            yield

    def refuse_foreign(self) -> None:
        """Raise a `PrefixError` when the directory holds something that envtool did not put there."""
        if self.state() is State.FOREIGN:
            hint = "choose another place with -n or -p, or remove the directory yourself"
            raise PrefixError(f"{self.path} exists and was not made by envtool; nothing in it was touched", hint)

    def require_whole(self) -> Receipt:
        """The receipt of a whole prefix. Raises PrefixError if it is not found, not ours or not whole."""
        state = self.state()
        if state is State.WHOLE:
            return self.receipt()
        if state is State.INCOMPLETE:
            hint = "run envtool create again; it goes on"
            raise PrefixError(f"{self.path} is not whole: a create was broken off", hint)
        what = "was not made by envtool" if state is State.FOREIGN else "not found"
        raise PrefixError(f"{self.path} {what}", "envtool create makes an environment from a lock")

    def mark_incomplete(self) -> None:
        """Note, durably, that the prefix is being changed."""
        write_atomically(self._mark, "envtool is changing this prefix, or was stopped while it did\n")

    def clear(self) -> None:
        """Remove everything but the mark and the lock, so that work can start again."""
        for entry in (*self.path.iterdir(), *self.meta.iterdir()):
            if entry in (self.meta, self._mark, self._lock):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def receipt(self) -> Receipt:
        """Read the receipt, in an image with its layers' parts of it. Raises PrefixError if it is damaged."""
        with _reading(self._receipt):
            data = _part(self._receipt)
            # Those that it lists: others are of a base, or were left behind.
            for name in data.get("parts", ()):
                own = _part(self._parts / name)
                data["packages"] += own["packages"]
                data["generated"].update(own["generated"])
            if "parts" in data:  # no layer has it, or each package would change that layer too
                data["env_digest"] = os.environ.get(ENV_DIGEST_VARIABLE) if self.is_active else None
            return Receipt(
                platform=data["platform"], categories=tuple(data["categories"]),
                packages=tuple(data["packages"]), env_digest=data["env_digest"],
                generated=data["generated"], link_scripts=tuple(data.get("link_scripts", ())),
            )  # fmt: skip

    def complete(self, receipt: Receipt) -> None:
        """Write the receipt and take the mark away, in this order."""
        data = {"format": RECEIPT_FORMAT, **asdict(receipt)}
        write_atomically(self._receipt, json.dumps(data, indent=1, sort_keys=True) + "\n")
        shutil.rmtree(self._parts, ignore_errors=True)
        self._mark.unlink(missing_ok=True)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
    ) as error:  # fmt: skip
        hint = "envtool create --force makes the prefix anew"
        raise PrefixError(f"the receipt {path} is damaged: {error}", hint) from error
    except OSError as error:
        raise PrefixError(f"the receipt {path} cannot be read: {error.strerror}") from error


def _part(path: Path) -> dict[str, Any]:
    with _reading(path):
        data: dict[str, Any] = json.loads(path.read_bytes())
        if not isinstance(data["packages"], list) or not isinstance(data["generated"], dict):
            raise TypeError("expected a list of packages and a table of generated files")
        return {**data, "packages": [Installed(**package) for package in data["packages"]]}


def find_prefix(name: str | None, path: Path | None, made_for: Path | None = None) -> Prefix:
    """The prefix of -n or -p; a name is under `~/.envtool/envs` or in a Miniconda's `envs`. Raises MissingFileError."""
    if path is not None:
        return Prefix(path, made_for)
    if name is None:
        raise MissingFileError("no environment is named", "name one with -n NAME or -p PREFIX")
    conda = os.environ.get("CONDA_EXE")
    roots = [Path(conda).parent.parent] if conda else []
    roots += [Path.home() / root for root in ("miniconda3", "miniforge3", "anaconda3")]
    places = [paths.home() / "envs", *(root / "envs" for root in roots if (root / "conda-meta").is_dir())]
    existing = (place / name for place in places if (place / name / "conda-meta").is_dir())
    return Prefix(next(existing, places[0] / name), made_for)


class Environment(NamedTuple):
    """One environment that envtool made."""

    path: Path
    state: State
    env_digest: str | None
    package_count: int


def environments() -> list[Environment]:
    """Every environment that envtool made: those with a name, and those that conda's list of environments knows."""
    home = paths.home() / "envs"
    named = list(home.iterdir()) if home.is_dir() else []
    found = []
    for prefix in map(Prefix, sorted({*named, *known_prefixes()})):
        state = prefix.state()
        if state is State.WHOLE:
            receipt = prefix.receipt()
            found.append(Environment(prefix.path, state, receipt.env_digest, len(receipt.packages)))
        elif state is State.INCOMPLETE:
            found.append(Environment(prefix.path, state, None, 0))
    return found


def remove(prefix: Prefix) -> None:
    """Remove an environment with everything in it. Raises PrefixError if there is none of envtool."""
    if prefix.state() in (State.ABSENT, State.EMPTY):
        raise PrefixError(f"{prefix.path} not found", "envtool list shows the environments")
    with prefix.locked(is_going=True):
        # First the mark: a removal that is broken off must not leave something that looks whole.
        prefix.mark_incomplete()
        prefix.clear()
        shutil.rmtree(prefix.path)
    unregister(prefix.path)


def known_prefixes() -> list[Path]:
    """The prefixes in the user's list of environments, which conda and editors read too."""
    known = _environments_txt()
    return [Path(line) for line in known.read_text().splitlines() if line.strip()] if known.exists() else []


def register(prefix: Path) -> None:
    """Enter a prefix into the user's list of environments."""
    _change_list(lambda entries: entries if prefix in entries else [*entries, prefix])


def unregister(prefix: Path) -> None:
    """Take a prefix out of the user's list of environments."""
    _change_list(lambda entries: [entry for entry in entries if entry != prefix])


def _change_list(change: Callable[[list[Path]], list[Path]]) -> None:
    known = _environments_txt()
    try:
        known.parent.mkdir(exist_ok=True)
        with file_lock.hold(known.with_name(f"{known.name}.lock"), known):
            before = known_prefixes()
            after = change(before)
            if after != before:
                write_atomically(known, "".join(f"{each}\n" for each in after))
    except OSError as error:
        say(f"warning: {known} could not be written: {error.strerror}; conda will not know about the environment")


def _environments_txt() -> Path:
    return Path.home() / ".conda" / "environments.txt"
