"""CUDA that a lock is built for, on machines with and without a driver: what `create` and `doctor` say of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.functional.prefix.conftest import User
from tests.support import nvidia
from tests.support.archives import Archive, File, locked

DRIVER, CUDA = "535.104.05", "12.2"
needs_driver = pytest.mark.skipif(nvidia.missing() is not None, reason=f"no driver: {nvidia.missing()}")


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvidia.library(tmp_path_factory.mktemp("driver") / CUDA, CUDA)


def lock(user: User, tmp_path: Path, built_for: str, demanded: str = "") -> None:
    archive = Archive("cuda-version" if built_for else "tool", {"share/x": File()}, version=built_for or "1.0")
    needs = {"__cuda": demanded} if demanded else {}
    user.write_lock(replace(locked(archive.write(tmp_path)), dependencies=needs))


def with_driver(user: User, *arguments: object, code: int = 0, note: str | None = DRIVER, **env: str) -> str:
    argv = [sys.executable, "-m", "envtool", *(str(argument) for argument in arguments)]
    if note:
        argv = nvidia.with_note(argv, note)
    done = subprocess.run(argv, cwd=user.home, env={**user.env, **env}, text=True, capture_output=True)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout if "--json" in arguments else done.stderr


def findings(answer: str) -> dict[str, str]:
    found = json.loads(answer)["findings"]
    return {f"{each['severity']} {each['check']}": each["message"] for each in found}


@needs_driver
@pytest.mark.parametrize(
    ("cuda", "words", "code"),
    [
        ("11.8", "", 0),
        ("12.8", "CUDA 12.8 runs on driver 535.104.05, but code made at run time", 0),
        ("13.0", "CUDA 13.0 needs driver 580.65.06 or newer; this machine has driver 535.104.05", 1),
    ],
)
def test_a_machine_with_a_driver(user: User, tmp_path: Path, libraries: Path, cuda: str, words: str, code: int) -> None:
    lock(user, tmp_path, cuda)
    env = {"LD_LIBRARY_PATH": str(libraries)}
    found = findings(with_driver(user, "doctor", "--offline", "--json", code=code, **env))
    of_driver = [message for name, message in found.items() if name.endswith("driver")]
    told = json.loads(with_driver(user, "create", "-p", user.home / "env", "--json", **env))
    assert of_driver == ([told["cuda"]] if words else [])
    assert (told["cuda"] or "").startswith(words)


@needs_driver
def test_what_conda_packages_demand_is_demanded(user: User, tmp_path: Path, libraries: Path) -> None:
    create = ("create", "-p", user.home / "env")
    lock(user, tmp_path, "", ">=12.4")
    old = with_driver(user, *create, code=3, LD_LIBRARY_PATH=str(libraries))
    assert "tool needs __cuda >=12.4; this machine's driver supports CUDA up to 12.2: too old" in old
    assert "this machine has no CUDA driver" in user.run(*create, code=3).stderr
    user.run(*create, CONDA_OVERRIDE_CUDA="12.4")


@needs_driver
def test_a_driver_without_its_library_and_a_library_alone(user: User, tmp_path: Path, libraries: Path) -> None:
    lock(user, tmp_path, "12.8")
    found = findings(with_driver(user, "doctor", "--offline", "--json"))
    assert "driver 535.104.05, and its libcuda.so.1 is not found" in found["warning driver"]
    found = findings(with_driver(user, "doctor", "--offline", "--json", note=None, LD_LIBRARY_PATH=str(libraries)))
    assert "CUDA 12.8 runs on a driver for CUDA up to 12.2" in found["warning driver"]
    lock(user, tmp_path, "")
    found = findings(with_driver(user, "doctor", "--offline", "--json", LD_LIBRARY_PATH=str(libraries)))
    assert found["note driver"] == "nothing in the lock uses CUDA, and this machine has a GPU of NVIDIA"


def test_no_driver_and_the_override(user: User, tmp_path: Path) -> None:
    lock(user, tmp_path, "12.8")
    without = findings(user.run("doctor", "--offline", "--json", CONDA_OVERRIDE_CUDA="").stdout)
    assert without["warning driver"] == "the lock is built for CUDA 12.8, and this machine has no NVIDIA driver"
    told = user.run("create", "-p", user.home / "env", CONDA_OVERRIDE_CUDA="").stderr
    assert f"warning: {without['warning driver']}" in told
    assert "warning driver" not in findings(user.run("doctor", "--offline", "--json", CONDA_OVERRIDE_CUDA="13").stdout)


def test_a_cuda_of_the_system_that_shadows_the_environments(user: User, tmp_path: Path) -> None:
    lock(user, tmp_path, "12.8")
    system = tmp_path / "cuda-11.8"
    (system / "lib64/stubs").mkdir(parents=True)
    for name in ("libcudart.so.11.0", "libcublas.so.11", "libother.so.1", "stubs/libcuda.so"):
        (system / "lib64" / name).write_bytes(b"")
    (tmp_path / "cuda").symlink_to(system)
    paths = f"/nowhere:{system}/lib64:{system}/lib64/stubs"
    env = {"LD_LIBRARY_PATH": paths, "CUDA_HOME": str(tmp_path / "cuda"), "CONDA_OVERRIDE_CUDA": "12.8"}
    answer = json.loads(user.run("doctor", "--offline", "--json", code=1, **env).stdout)["findings"]
    messages = {each["message"] for each in answer if each["check"] == "cuda"}
    assert messages == {
        f"LD_LIBRARY_PATH has {system}/lib64, whose libcublas.so.11, libcudart.so.11.0 are loaded instead of the "
        "environment's",
        f"LD_LIBRARY_PATH has {system}/lib64/stubs, whose libcuda.so is a stub that finds no GPU",
        f"CUDA_HOME is {tmp_path}/cuda, CUDA 11.8, and the lock is built for CUDA 12.8",
    }
