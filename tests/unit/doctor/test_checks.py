"""What is found, from facts that are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from envtool.doctor.checks import check
from envtool.doctor.machine_facts import (
    Inotify,
    MachineFacts,
    Needs,
    Place,
    Reach,
    Severity,
    glibc_of,
    needs,
    skew_of,
)
from envtool.install.cuda import Fit, Gpu, cuda_of, fit, read_driver
from envtool.lockfile.conda_lock_v1 import LockedPackage

CACHE = Place(Path("/home/user/.cache/envtool"), "cache", True, 0o755, 10**12, 10**9, 1)
HOME = Place(Path("/home/user/.envtool/envs"), "environments", True, None, 10**12, None, 2)
GOOD = MachineFacts(
    virtual_packages={"__glibc": "2.36"}, gpu=Gpu(True, "570.86.10", "12.8"), places=(CACHE, HOME),
    inotify=Inotify(128, 192536, 3), reach=(Reach("https://c/", 2, ("origin",)),), clock=("https://c/", 1),
)  # fmt: skip
NEEDS = Needs(cuda="12.1", glibc="2.28", missing_bytes=10**9, unpacked_bytes=4 * 10**9)
PLENTY = 2**62


def test_a_good_machine_has_no_findings() -> None:
    assert check(GOOD, NEEDS) == []
    assert check(MachineFacts(), Needs()) == []


CASES = [
    ("driver", "error", {"gpu": Gpu(True, "470.42.01", "11.4")}, {}, "needs driver 525.60.13 or newer"),
    ("driver", "warning", {"gpu": Gpu(True, "525.85.12", "12.0")}, {}, "made at run time"),
    ("driver", "warning", {"gpu": Gpu(True, None)}, {}, "has a GPU and no NVIDIA driver"),
    ("driver", "warning", {"gpu": Gpu()}, {}, "has no NVIDIA driver"),
    ("driver", "warning", {"gpu": Gpu(True, "570.86.10")}, {}, "libcuda.so.1 is not found"),
    ("driver", "error", {"gpu": Gpu(cuda="11.8")}, {}, "this machine has a driver for CUDA up to 11.8"),
    ("driver", "warning", {"gpu": Gpu(cuda="12.0")}, {}, "CUDA 12.1 runs on a driver for CUDA up to 12.0, but"),
    ("driver", "note", {}, {"cuda": None, "package_count": 3}, "nothing in the lock uses CUDA"),
    ("cuda", "error", {"shadows": {Path("/c/stubs"): ("libcuda.so",)}}, {}, "libcuda.so is a stub"),
    ("cuda", "warning", {"shadows": {Path("/c/lib64"): ("libcudart.so.12",)}}, {}, "whose libcudart.so.12"),
    ("cuda", "warning", {"environ": {"CUDA_HOME": "/c/cuda-11.8"}}, {}, "CUDA 11.8, and the lock is built for"),
    ("cuda", "error", {}, {"lacks": (("__cuda", "torch needs __cuda >=12"),)}, "torch needs __cuda >=12"),
    ("glibc", "error", {"virtual_packages": {"__glibc": "2.27 0"}}, {}, "needs glibc 2.28; this machine has 2.27"),
    ("disk", "error", {"places": (CACHE._replace(free_bytes=10**8),)}, {}, "about 1.0 GB are needed, 100.0 MB"),
    ("disk", "warning", {"places": (HOME._replace(free_bytes=2 * 10**9),)}, {}, "about 4.0 GB are needed"),
    ("disk", "warning", {"places": (CACHE._replace(free_files=10),)}, {}, "takes 10 more files"),
    ("permissions", "error", {"places": (CACHE._replace(is_writable=False),)}, {}, "cannot be written"),
    ("permissions", "warning", {"places": (CACHE._replace(mode=0o777),)}, {}, "by everybody"),
    ("path", "error", {"places": (HOME._replace(path=Path("/a b")),)}, {}, "has ' ' in it"),
    ("path", "warning", {"places": (HOME._replace(path=Path("/" + "a" * 100)),)}, {}, "is so long"),
    ("inotify", "warning", {"inotify": Inotify(128, PLENTY, 120)}, {}, "8 of 128 watchers"),
    ("inotify", "warning", {"inotify": Inotify(128, 100, 0)}, {}, "only 100 directories"),
    ("locale", "error", {"encoding": "ascii"}, {}, "read as ascii"),
    ("locale", "warning", {"has_locale": False, "environ": {"LANG": "xx_XX"}}, {}, "'xx_XX' not found"),
    ("certificates", "error", {"environ": {"PIP_CERT": "/x"}, "files": {"/x": False}}, {}, "PIP_CERT names /x"),
    ("proxy", "error", {"environ": {"no_proxy": "*"}, "proxies": {"https_proxy": "refused"}}, {}, "refused"),
    ("proxy", "warning", {"proxies": {"https_proxy": None}}, {}, "no_proxy has no 127.0.0.1"),
    ("proxy", "warning", {"environ": {"http_proxy": "http://a", "HTTP_PROXY": "http://b"}}, {}, "differ"),
    ("network", "error", {"reach": (Reach("https://c/", 2, (), {"origin": "DNS"}),)}, {}, "2 places (origin: DNS)"),
    ("network", "warning", {"reach": (Reach("https://c/", 2, ()),)}, {"is_cached": True}, "any of 2 places"),
    ("clock", "warning", {"clock": ("https://c.example/", -90)}, {}, "90 s behind that of c.example"),
    ("clock", "error", {"clock": ("https://c.example/", 4000)}, {}, "4000 s ahead of that of c.example"),
    ("conda", "warning", {"condarc": {Path("/c"): {"ssl_verify": "False"}}}, {}, "checks no certificates"),
    ("conda", "warning", {"condarc": {Path("/c"): {"pip_interop_enabled": "true"}}}, {}, "may replace wheels"),
    ("conda", "note", {"condarc": {Path("/c"): {"channel_alias": "https://x"}}}, {}, "other channels"),
    ("python", "warning", {"environ": {"PYTHONPATH": "/x"}}, {}, "PYTHONPATH is set"),
    ("python", "warning", {"environ": {"LD_PRELOAD": "/x"}}, {}, "LD_PRELOAD is set"),
    ("python", "warning", {"user_packages": (Path("/home/user/.local"),)}, {}, "every Python of that version"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "severity", "facts", "wanted", "words"), CASES)
def test_one_thing_wrong_is_one_finding(name: str, severity: str, facts: dict, wanted: dict, words: str) -> None:
    found = check(replace(GOOD, **facts), NEEDS._replace(**wanted))
    assert [(each.check, each.severity.value) for each in found] == [(name, severity)]
    assert words in found[0].message
    assert found[0].hint


def test_what_is_not_wrong() -> None:
    without_user_packages = {"PYTHONNOUSERSITE": "1"}
    assert check(replace(GOOD, environ=without_user_packages, user_packages=(Path("/x"),)), NEEDS) == []
    assert check(replace(GOOD, gpu=Gpu()), NEEDS._replace(cuda=None, package_count=3)) == []
    assert check(replace(GOOD, gpu=Gpu(cuda="12.1")), NEEDS) == []
    same = {"environ": {"CUDA_HOME": "/c/cuda"}, "links": {"/c/cuda": "/c/cuda-12.1"}}
    assert check(replace(GOOD, **same, shadows={Path("/x"): ("libcuda.so.1",)}), NEEDS) == []
    assert check(replace(GOOD, proxies={"http_proxy": None}, environ={"NO_PROXY": "a, localhost"}), NEEDS) == []


def test_the_worst_comes_first() -> None:
    facts = replace(GOOD, environ={"LD_PRELOAD": "/x"}, encoding="ascii", condarc={Path("/c"): {"offline": "true"}})
    assert [each.severity for each in check(facts, NEEDS)] == [Severity.ERROR, Severity.WARNING, Severity.NOTE]


@pytest.mark.parametrize(
    ("cuda", "driver", "expected"),
    [
        ("12.1", "530.30.02", Fit.FULL),
        ("12.1", "530.30.01", Fit.LIMITED),
        ("12.1", "525.60.13", Fit.LIMITED),
        ("12.1", "525.60.11", Fit.TOO_OLD),
        ("11.8", "450.80.02", Fit.LIMITED),
        ("11.8", "520.61.05", Fit.FULL),
        ("13.0", "575.51.03", Fit.TOO_OLD),
        # Between two lines of the table, and beyond its end.
        ("12.7", "560.28.03", Fit.FULL),
        ("13.4", "580.65.06", Fit.FULL),
        ("10.2", "440.32", Fit.TOO_OLD),
        ("8.0", "400.0", Fit.UNKNOWN),
    ],
)
def test_driver_and_cuda(cuda: str, driver: str, expected: Fit) -> None:
    assert fit(cuda, Gpu(True, driver, "11.0")) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC 12.2",
            "535.104.05",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x@y)\n", "580.65.06"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  440.33\n", "440.33"),
        ("GCC version:  gcc 12.2.0\n", None),
        ("", None),
    ],
)
def test_the_version_of_the_driver(text: str, expected: str | None) -> None:
    assert read_driver(text) == expected


@pytest.mark.parametrize(
    ("date", "expected"), [("Thu, 01 Jan 1970 00:01:00 GMT", -60.0), ("yesterday", None), ("", None)]
)
def test_clock_skew(date: str, expected: float | None) -> None:
    assert skew_of(date, 0.0) == expected


def package(manager: str, name: str, version: str, file: str = "x", **dependencies: str) -> LockedPackage:
    return LockedPackage(manager, name, version, "linux-64", f"https://c/{file}", "0" * 64, None, dependencies)


def test_what_a_lock_needs() -> None:
    conda = [package("conda", "cuda-version", "12.6"), package("conda", "pytorch-cuda", "12.1")]
    assert cuda_of(conda) == "12.1"
    assert cuda_of([package("pip", "torch", "2.3.0+cu118"), package("pip", "numpy", "1.26")]) == "11.8"
    assert cuda_of([package("pip", "nvidia-cuda-runtime-cu12", "12.4.127")]) == "12.4"
    assert cuda_of([package("conda", "numpy", "12.1"), package("pip", "cuda-version", "12")]) is None
    wheels = ["a-1-cp39-cp39-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", "b-1-cp39-cp39-manylinux_2_28_x86_64.whl"]
    assert glibc_of([package("pip", "a", "1", wheel) for wheel in wheels]) == "2.28"
    assert glibc_of([package("pip", "a", "1", "a-1-py3-none-any.whl")]) is None
    # Several tags: any of the systems will do.
    two = "a-1-cp39-cp39-manylinux_2_12_x86_64.manylinux_2_31_x86_64.whl"
    assert glibc_of([package("pip", "a", "1", two)]) == "2.12"


def test_the_room_that_a_lock_needs() -> None:
    packages = [package("conda", name, "1", name) for name in ("seen", "sized", "unknown")]
    found = needs(packages, {}, {"https://c/sized": 1000, "https://c/seen": 7}, {"https://c/seen": 8000})
    assert (found.missing_bytes, found.unpacked_bytes, found.unknown) == (1000, 13_500, 1)
    assert not found.is_cached
    assert needs(packages[:1], {}, {}, {"https://c/seen": 0}).is_cached
    lacking = needs([package("conda", "x", "1", __cuda=">=12")], {}, {}, {})
    assert lacking.lacks[0][0] == "__cuda"


def test_a_shared_disk_holds_both() -> None:
    room = 4 * 10**9 + 10**8
    places = (CACHE._replace(free_bytes=room), HOME._replace(free_bytes=room))
    assert check(replace(GOOD, places=places), NEEDS) == []
    shared = (places[0], places[1]._replace(device=CACHE.device))
    (found,) = check(replace(GOOD, places=shared), NEEDS._replace(unknown=2))
    assert "about 5.0 GB are needed (2 archives of unknown size not counted)" in found.message
