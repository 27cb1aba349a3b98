"""CUDA: which one a lock is built for, what this machine's driver supports, and how the two go together. conda packages
state `__cuda`; of wheels, names and versions tell. Source: NVIDIA, CUDA Toolkit Release Notes, "CUDA Toolkit and
Corresponding Driver Versions" (Linux x86_64), and CUDA Compatibility, "Minor Version Compatibility". A newer CUDA than
the table's counts as its last line of the same major."""

from __future__ import annotations

import contextlib
import enum
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from envtool.lockfile.model import LockedPackage

# The driver that came with the first release of each: with it, or a newer one, everything works.
_FULL = {
    (10, 2): "440.33", (11, 0): "450.36.06", (11, 1): "455.23", (11, 2): "460.27.03", (11, 3): "465.19.01",
    (11, 4): "470.42.01", (11, 5): "495.29.05", (11, 6): "510.39.02", (11, 7): "515.43.04", (11, 8): "520.61.05",
    (12, 0): "525.60.13", (12, 1): "530.30.02", (12, 2): "535.54.03", (12, 3): "545.23.06", (12, 4): "550.54.14",
    (12, 5): "555.42.02", (12, 6): "560.28.03", (12, 8): "570.26", (12, 9): "575.51.03", (13, 0): "580.65.06",
}  # fmt: skip
# With it, programs of the whole major version run that bring code for the GPU; code made at run time does not.
_LEAST = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
# What says it best comes first: a channel may have a cuda-version that is newer than the CUDA in use.
_CONDA_CUDA = ("pytorch-cuda", "cuda-cudart", "cudatoolkit", "cuda-version")
_WHEEL_CUDA = re.compile(r"nvidia-cuda-runtime(-cu\d+)?")
_LOCAL_CUDA = re.compile(r"\+cu(\d\d)(\d+)")
_DRIVER = re.compile(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s")
_KERNELS_NOTE = Path("/proc/driver/nvidia/version")


class Fit(enum.Enum):
    """How a machine goes with the CUDA of a lock."""

    FULL = "full"
    LIMITED = "limited"
    TOO_OLD = "too old"
    MISSING = "missing"
    UNREACHABLE = "unreachable"  # the kernel has a driver whose library is not found
    UNKNOWN = "unknown"


class Gpu(NamedTuple):
    """What this machine has of NVIDIA; None for what it has not."""

    has_device: bool = False
    driver: str | None = None  # the version of the kernel's driver
    cuda: str | None = None  # the newest CUDA that the driver's library supports, conda's `__cuda`


def detect_gpu(virtual_packages: Mapping[str, str]) -> Gpu:
    """What this machine has, with conda's own detection, which obeys CONDA_OVERRIDE_CUDA."""
    cuda = virtual_packages.get("__cuda", "").split(" ")[0] or None
    if "CONDA_OVERRIDE_CUDA" in os.environ:  # stands for another machine
        return Gpu(cuda=cuda)
    text = ""
    with contextlib.suppress(OSError):
        text = _KERNELS_NOTE.read_text()
    return Gpu(any(Path("/dev").glob("nvidia[0-9]*")), read_driver(text), cuda)


def read_driver(text: str) -> str | None:
    """The version of the driver from the text of /proc/driver/nvidia/version."""
    found = _DRIVER.search(text.partition("\n")[0] + " ")
    return found[1] if found else None


def fit(cuda: str, gpu: Gpu) -> Fit:
    """How a machine goes with a CUDA."""
    if gpu.cuda is None:
        return Fit.MISSING if gpu.driver is None else Fit.UNREACHABLE
    if gpu.driver is None:  # WSL, or CONDA_OVERRIDE_CUDA
        if numbers(gpu.cuda) >= numbers(cuda):
            return Fit.FULL
        return Fit.LIMITED if numbers(gpu.cuda)[0] == numbers(cuda)[0] else Fit.TOO_OLD
    full, least = driver_for(cuda), least_driver_for(cuda)
    if full is None:
        return Fit.UNKNOWN
    if numbers(gpu.driver) >= numbers(full):
        return Fit.FULL
    return Fit.LIMITED if least != full and numbers(gpu.driver) >= numbers(least or full) else Fit.TOO_OLD


def judge(cuda: str, gpu: Gpu) -> tuple[Fit, str, str]:
    """How a machine goes with a CUDA, in a word, in a sentence (empty when all is well), and what to do about it."""
    verdict, driver, least = fit(cuda, gpu), driver_for(cuda) or f"for CUDA {cuda}", least_driver_for(cuda)
    has = f"driver {gpu.driver}" if gpu.driver else f"a driver for CUDA up to {gpu.cuda}"
    lacks = "has a GPU and no NVIDIA driver" if gpu.has_device else "has no NVIDIA driver"
    older = "install a newer driver, or lock for an older CUDA"
    told = {
        Fit.MISSING: (
            f"the lock is built for CUDA {cuda}, and this machine {lacks}",
            f"install driver {driver} or newer; without one everything runs on the CPU",
        ),
        Fit.UNREACHABLE: (
            f"the kernel has NVIDIA's driver {gpu.driver}, and its libcuda.so.1 is not found: CUDA cannot be used",
            "install the driver's libraries; a container gets them from `--gpus all` and NVIDIA's container toolkit",
        ),
        Fit.TOO_OLD: (f"CUDA {cuda} needs driver {least or driver} or newer; this machine has {has}", older),
        Fit.LIMITED: (
            f"CUDA {cuda} runs on {has}, but code made at run time (PTX, torch.compile) may not",
            f"install driver {driver} or newer",
        ),
    }
    return (verdict, *told.get(verdict, ("", "")))


def driver_for(cuda: str) -> str | None:
    """The driver with which everything of a CUDA works; None for one that is older than the table."""
    wanted = tuple(numbers(cuda)[:2])
    known = [each for each in _FULL if each <= wanted and each[0] == wanted[0]]
    return _FULL[max(known)] if known else None


def least_driver_for(cuda: str) -> str | None:
    """The oldest driver on which programs of a CUDA run at all."""
    return _LEAST.get(numbers(cuda)[0]) or driver_for(cuda)


def cuda_of(packages: Iterable[LockedPackage]) -> str | None:
    """The newest CUDA that packages are built for, conda's and wheels apart."""
    packages = list(packages)
    versions = {each.name: each.version for each in packages if each.manager == "conda"}
    found = [next((each for name in _CONDA_CUDA if (each := _two(versions.get(name, "")))), None)]
    for package in packages:
        if package.manager == "pip" and (local := _LOCAL_CUDA.search(package.version)):
            found.append((int(local[1]), int(local[2])))
        elif package.manager == "pip" and _WHEEL_CUDA.fullmatch(package.name):
            found.append(_two(package.version))
    known = [each for each in found if each]
    return ".".join(map(str, max(known))) if known else None


def _two(version: str) -> tuple[int, ...] | None:
    parts = version.split(".")[:2]
    return tuple(map(int, parts)) if len(parts) == 2 and all(part.isdigit() for part in parts) else None


def numbers(version: str) -> list[int]:
    """The numbers of a version, by which two are compared."""
    return [int(each) for each in version.split(".") if each.isdigit()] or [0]
