"""What the checks look at: the state of a machine as frozen values, so that every check is a function of them alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """What this machine has of NVIDIA.

    Args:
        has_device: Whether there is a device file of a GPU.
        driver: The version of the driver; None when none is loaded.
    """

    has_device: bool = False
    driver: str | None = None


@dataclass(frozen=True)
class Place:
    """A directory that envtool writes to.

    Args:
        path: Where it is.
        role: What it is for.
        is_writable: Whether it, or the nearest directory that is there, can be written.
        mode: Its permissions; None when it is not there.
        free_bytes: The room on its disk.
        free_files: How many files its disk can still take; None where it does not count them.
        device: The number of its disk; two places with the same share its room.
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
    """The limits of file events for one user.

    Args:
        max_instances: How many watchers a user may have.
        max_watches: How many directories they may watch together.
        used_instances: How many watchers this user has, as far as can be seen.
    """

    max_instances: int
    max_watches: int
    used_instances: int


@dataclass(frozen=True)
class Reach:
    """Whether a channel or a store of wheels can be reached.

    Args:
        channel: Its canonical URL.
        places: How many places were asked.
        answering: The names of those that have what the lock needs.
        reasons: Why the others do not, by name.
    """

    channel: str
    places: int
    answering: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Clock:
    """This machine's clock against a server's.

    Args:
        host: The server.
        skew_s: How many seconds this machine is ahead.
    """

    host: str
    skew_s: float


@dataclass(frozen=True)
class Conda:
    """One configuration file of conda.

    Args:
        path: The file.
        keys: Its keys and values at the top, as text.
    """

    path: Path
    keys: Mapping[str, str]


@dataclass(frozen=True)
class MachineFacts:
    """Everything that is known of a machine.

    Args:
        environ: The environment variables.
        virtual_packages: The virtual packages of conda, name to `version` or `version build`.
        gpu: What it has of NVIDIA.
        places: Where envtool writes.
        inotify: The limits of file events; None where the kernel does not say.
        encoding: How file names are read.
        has_locale: Whether the locale that the environment asks for is there.
        files: For each file that a variable names, whether it is there.
        proxies: For each proxy of the environment, why it cannot be used; None when it accepts connections.
        reach: The channels of the lock; None when they were not asked.
        clock: This machine's clock; None when no server was asked.
        condarc: The configuration files of conda.
        user_packages: Directories of packages that every Python of this user sees.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    virtual_packages: Mapping[str, str] = field(default_factory=dict)
    gpu: Gpu = Gpu()
    places: tuple[Place, ...] = ()
    inotify: Inotify | None = None
    encoding: str = "utf-8"
    has_locale: bool = True
    files: Mapping[str, bool] = field(default_factory=dict)
    proxies: Mapping[str, str | None] = field(default_factory=dict)
    reach: tuple[Reach, ...] | None = None
    clock: Clock | None = None
    condarc: tuple[Conda, ...] = ()
    user_packages: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Needs:
    """What a lock needs of a machine.

    Args:
        lacks: What the machine does not have of it, in words, by virtual package.
        cuda: The newest CUDA that its packages are built for, such as `12.1`; None when they need none.
        glibc: The newest glibc that its wheels are built for; None when any will do.
        missing_bytes: The size of its archives and wheels that are not in the cache, as far as it is known.
        unpacked_bytes: What an environment of all of them takes: measured for those that are in the cache, and guessed
            from the size for others.
        unknown: How many of those that are not in the cache have a size that nobody says.
        is_cached: Whether all of them are in the cache.
    """

    lacks: tuple[tuple[str, str], ...] = ()
    cuda: str | None = None
    glibc: str | None = None
    missing_bytes: int = 0
    unpacked_bytes: int = 0
    unknown: int = 0
    is_cached: bool = False
