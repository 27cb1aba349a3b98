"""The state of a machine, the needs of a lock and the findings as values; a look that fails leaves a fact unknown."""

from __future__ import annotations

import contextlib
import enum
import locale
import os
import re
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from envtool import paths
from envtool.errors import EnvtoolError
from envtool.fetch import client
from envtool.fetch.credentials import without_credentials
from envtool.fetch.failover import Timeouts
from envtool.install.cuda import Gpu, cuda_of, detect_gpu
from envtool.install.preconditions import UNPACKED_FACTOR, find_lacks, with_overhead
from envtool.lockfile.model import LockedPackage
from envtool.mirrors import configure, selection
from envtool.mirrors.mirrors import Preset
from envtool.prefix import rattler
from envtool.yaml_document import YamlDocument

_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)")
_OLD_MANYLINUX = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


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


class Place(NamedTuple):
    """A directory that envtool writes to."""

    path: Path
    role: str
    is_writable: bool  # whether it, or the nearest directory that is there, can be written
    mode: int | None
    free_bytes: int
    free_files: int | None  # how many files its disk can still take; None where it does not count them
    device: int  # the number of its disk; two places with the same share its room


class Inotify(NamedTuple):
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
class MachineFacts:
    """Everything that is known of a machine."""

    environ: Mapping[str, str] = field(default_factory=dict)
    # the virtual packages of conda, name to `version` or `version build`
    virtual_packages: Mapping[str, str] = field(default_factory=dict)
    gpu: Gpu = field(default_factory=Gpu)
    places: tuple[Place, ...] = ()
    inotify: Inotify | None = None
    encoding: str = "utf-8"
    has_locale: bool = True
    # paths in variables, with whether they are there; `links` has where they lead
    files: Mapping[str, bool] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    # for each proxy of the environment, why it cannot be used; None when it accepts connections
    proxies: Mapping[str, str | None] = field(default_factory=dict)
    reach: tuple[Reach, ...] | None = None  # the channels of the lock; None when they were not asked
    # a server, and by how many seconds this machine's clock is ahead of that one's; None when no server was asked
    clock: tuple[str, float] | None = None
    condarc: Mapping[Path, Mapping[str, str]] = field(default_factory=dict)  # the keys of each file of conda's
    user_packages: tuple[Path, ...] = ()
    # directories of LD_LIBRARY_PATH with their libraries of CUDA or PyTorch
    shadows: Mapping[Path, Sequence[str]] = field(default_factory=dict)


class Needs(NamedTuple):
    """What a lock needs of a machine."""

    lacks: tuple[tuple[str, str], ...] = ()  # what the machine does not have of it, in words, by virtual package
    cuda: str | None = None
    glibc: str | None = None
    missing_bytes: int = 0  # the size of its archives and wheels that are not in the cache, as far as it is known
    # what an environment of all of them takes: measured for those that are in the cache, and guessed from the size for
    # others
    unpacked_bytes: int = 0
    unknown: int = 0  # how many of those that are not in the cache have an unknown size
    is_cached: bool = False
    package_count: int = 0


def needs(
    packages: Sequence[LockedPackage], detected: Mapping[str, str], sizes: Mapping[str, int], cached: Mapping[str, int]
) -> Needs:
    """What packages need (`cached`: what those that are in the cache take once they are unpacked, in bytes, by URL)."""
    lacks = tuple((lack.name, str(lack)) for lack in find_lacks(packages, detected))
    missing = [package.url for package in packages if package.url not in cached]
    missing_bytes = sum(sizes.get(url, 0) for url in missing)
    return Needs(
        lacks, cuda_of(packages), glibc_of(packages), missing_bytes,
        with_overhead(sum(cached.values()) + missing_bytes * UNPACKED_FACTOR), sum(url not in sizes for url in missing),
        bool(packages) and not missing, len(packages),
    )  # fmt: skip


def glibc_of(packages: Iterable[LockedPackage]) -> str | None:
    """The newest glibc that wheels are built for."""
    found = []
    for wheel in (package.url.rpartition("/")[2] for package in packages if package.manager == "pip"):
        # A wheel may have several tags; the one for the oldest system counts.
        tags = [(int(major), int(minor)) for major, minor in _MANYLINUX.findall(wheel)]
        tags += [version for tag, version in _OLD_MANYLINUX.items() if f"{tag}_" in wheel]
        found += [min(tags)] if tags else []
    return ".".join(map(str, max(found))) if found else None


_PROC = Path("/proc")
# Names of libraries that an environment with CUDA or PyTorch brings, as programs ask for them; libcuda is the driver's.
_SHADOWING = re.compile(
    r"lib(cuda|cudart|cublas|cublasLt|cudnn\w*|cufft|curand|cusolver|cusparse|cupti|nccl|nvrtc|nvJitLink|torch\w*|c10\w*)"
    r"\.so(\.\d+(\.\d+)?)?"
)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_CONNECT_S = 5.0


def detect(urls: Sequence[str], presets: Sequence[Preset], limit_s: float | None) -> MachineFacts:
    """Everything that can be known of this machine; the network has `limit_s` to answer, None if it is not asked."""
    environ = dict(os.environ)
    proxies = [] if limit_s is None else [name for each in _PROXIES for name in (each, each.upper())]
    virtual_packages = rattler.detect_virtual_packages()
    condarc: dict[Path, Mapping[str, str]] = {}
    for path in (Path("/etc/conda/.condarc"), configure.condarc_path()):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            document = YamlDocument(str(path), path.read_text(encoding="utf-8"))
            stated = document.mapping(document.root, "the file")
            condarc[path] = {key: str(value.data) for key, value in stated.items()}
    return MachineFacts(
        environ=environ, virtual_packages=virtual_packages, gpu=detect_gpu(virtual_packages),
        places=(_place(paths.cache(), "cache"), _place(paths.home() / "envs", "environments")),
        inotify=_inotify(), encoding=sys.getfilesystemencoding(), has_locale=_has_locale(),
        files={value: Path(value).exists() for value in environ.values() if value.startswith("/")},
        links={value: os.path.realpath(value) for value in environ.values() if value.startswith("/")},
        proxies={name: _trouble_with(environ[name]) for name in proxies if environ.get(name)},
        reach=_reach(urls, presets, limit_s) if limit_s is not None else None,
        clock=_clock(urls, limit_s) if limit_s is not None else None,
        condarc=condarc, shadows=shadows(environ.get("LD_LIBRARY_PATH", "")),
        user_packages=tuple(sorted((Path.home() / ".local/lib").glob("python3*/site-packages"))),
    )  # fmt: skip


def skew_of(date: str, now_s: float) -> float | None:
    """How many seconds this machine is ahead of a server, from the server's Date header; None when it is no date."""
    with contextlib.suppress(TypeError, ValueError):
        return now_s - parsedate_to_datetime(date).timestamp()
    return None


def shadows(search_path: str) -> dict[Path, Sequence[str]]:
    """The directories of LD_LIBRARY_PATH that have libraries of CUDA or PyTorch."""
    found: dict[Path, Sequence[str]] = {}
    for each in filter(None, search_path.split(":")):
        with contextlib.suppress(OSError):
            names = sorted(path.name for path in Path(each).iterdir() if _SHADOWING.fullmatch(path.name))
            found.update({Path(each): names} if names else {})
    return found


def _place(path: Path, role: str) -> Place:
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    system = os.statvfs(there)
    # Some file systems (btrfs) make room for files as they go, and say 0 of 0.
    free_files = system.f_favail if system.f_files else None
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    is_writable = os.access(there, os.W_OK | os.X_OK)
    return Place(path, role, is_writable, mode, shutil.disk_usage(there).free, free_files, there.stat().st_dev)


def _inotify() -> Inotify | None:
    used = 0
    for process in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for each in (process / "fd").iterdir() if process.stat().st_uid == os.getuid() else ():
                with contextlib.suppress(OSError):
                    used += str(each.readlink()) == "anon_inode:inotify"
    limits = _PROC / "sys/fs/inotify"
    with contextlib.suppress(OSError, ValueError):
        instances, watches = (int((limits / f"max_user_{each}").read_text()) for each in ("instances", "watches"))
        return Inotify(instances, watches, used)
    return None


def _has_locale() -> bool:
    try:
        locale.setlocale(locale.LC_ALL, "")
        return True
    except locale.Error:
        return False


def _trouble_with(proxy: str) -> str | None:
    try:
        parts = urlsplit(proxy)
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https", "socks5", "socks5h") or not host:
        return "it is no URL"
    try:
        socket.create_connection((host, port), _CONNECT_S).close()
    except OSError as error:
        return f"{host}:{port}: {error.strerror or error}"
    return None


def _reach(urls: Sequence[str], presets: Sequence[Preset], limit_s: float) -> tuple[Reach, ...]:
    places = selection.candidates(urls, presets)
    found = []
    for channel, readings in selection.by_channel(selection.measure(places, limit_s)).items():
        answering = tuple(each.name for each in readings if each.estimate_s is not None)
        reasons = {reading.name: reading.reason or "nothing came" for reading in readings if reading.estimate_s is None}
        found.append(Reach(without_credentials(channel), len(readings), answering, reasons))
    return tuple(found)


def _clock(urls: Sequence[str], limit_s: float) -> tuple[str, float] | None:
    hosts = dict.fromkeys(
        f"{parts.scheme}://{parts.netloc}/" for parts in map(urlsplit, urls) if parts.scheme in ("http", "https")
    )
    patience = Timeouts(connect_timeout_s=limit_s / 2, read_timeout_s=limit_s / 2)
    for host in hosts:
        with contextlib.suppress(EnvtoolError):
            date = client.date(host, patience)
            skew_s = skew_of(date, time.time()) if date else None
            if skew_s is not None:
                return without_credentials(host), skew_s
    return None
