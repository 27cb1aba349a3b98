"""The state of a machine, the needs of a lock and the findings as frozen values; every check is a function of them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from envtool.install.cuda import Gpu


class Severity(enum.Enum):
    """How bad it is."""

    ERROR = "error"  # something will fail
    WARNING = "warning"  # something may fail, or be other than it seems
    NOTE = "note"  # good to know


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    severity: Severity
    check: str
    message: str
    hint: str


@dataclass(frozen=True)
class Place:
    """A directory that envtool writes to.

    Args:
        is_writable: whether it, or the nearest directory that is there, can be written.
        free_files: how many files its disk can still take; None where it does not count them.
        device: the number of its disk; two places with the same share its room.
    """

    path: Path
    role: str
    is_writable: bool
    mode: int | None
    free_bytes: int
    free_files: int | None
    device: int


@dataclass(frozen=True)
class Inotify:
    """The limits of file events for one user."""

    max_instances: int
    max_watches: int
    used_instances: int


@dataclass(frozen=True)
class Reach:
    """Whether a channel or a store of wheels can be reached."""

    channel: str
    places: int
    answering: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Clock:
    """This machine's clock against a server's."""

    host: str
    skew_s: float


@dataclass(frozen=True)
class Conda:
    """One configuration file of conda."""

    path: Path
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Shadow:
    """A directory that the loader searches before those of an environment, and the libraries in it."""

    path: Path
    libraries: tuple[str, ...]


@dataclass(frozen=True)
class MachineFacts:
    """Everything that is known of a machine.

    Args:
        virtual_packages: the virtual packages of conda, name to `version` or `version build`.
        proxies: for each proxy of the environment, why it cannot be used; None when it accepts connections.
        reach: the channels of the lock; None when they were not asked.
        clock: this machine's clock; None when no server was asked.
        files: paths in variables, with whether they are there; `links` has where they lead.
        shadows: directories of LD_LIBRARY_PATH with libraries of CUDA or PyTorch.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    virtual_packages: Mapping[str, str] = field(default_factory=dict)
    gpu: Gpu = field(default_factory=Gpu)
    places: tuple[Place, ...] = ()
    inotify: Inotify | None = None
    encoding: str = "utf-8"
    has_locale: bool = True
    files: Mapping[str, bool] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    proxies: Mapping[str, str | None] = field(default_factory=dict)
    reach: tuple[Reach, ...] | None = None
    clock: Clock | None = None
    condarc: tuple[Conda, ...] = ()
    user_packages: tuple[Path, ...] = ()
    shadows: tuple[Shadow, ...] = ()


@dataclass(frozen=True)
class Needs:
    """What a lock needs of a machine.

    Args:
        lacks: what the machine does not have of it, in words, by virtual package.
        missing_bytes: the size of its archives and wheels that are not in the cache, as far as it is known.
        unpacked_bytes: what an environment of all of them takes: measured for those that are in the cache, and guessed
            from the size for others.
        unknown: how many of those that are not in the cache have an unknown size.
    """

    lacks: tuple[tuple[str, str], ...] = ()
    cuda: str | None = None
    glibc: str | None = None
    missing_bytes: int = 0
    unpacked_bytes: int = 0
    unknown: int = 0
    is_cached: bool = False
    package_count: int = 0
