"""Templates for every CUDA: those of conda's packages locked against real records, those of wheels against an index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from envtool.install.cuda import cuda_of
from envtool.lockfile.conda_lock_v1 import read_lockfile
from tests.functional.lock.conftest import ROOT
from tests.support.mirror_simulator import MirrorSimulator
from tests.support.package_index import PackageIndex
from tests.support.repodata_server import serving, variable
from tests.support.wheels import write_wheel

NEEDED = ("Flask", "gunicorn", "Jinja2", "numpy", "prometheus-client", "safetensors", "tomli", "watchdog")


@pytest.fixture(scope="module")
def records() -> Iterator[str]:
    with serving(ROOT / "tests/data/repodata-cuda") as base:
        yield variable(base, ["conda-forge", "pytorch", "nvidia"])


@pytest.mark.parametrize(
    ("template", "settings", "pytorch"),
    [
        ("conda-forge", "cuda=11.8 python=3.12", "cuda118"),
        ("conda-forge", "cuda=12.6 python=3.12", "cuda126"),
        ("conda-forge", "cuda=12.8 python=3.12", "cuda126"),
        ("conda-forge", "cuda=12.9 python=3.12", "cuda129"),
        ("conda-forge", "cuda=13.0 python=3.14", "cuda130"),
        ("pytorch", "cuda=11.8 pytorch=2.1.0", "cuda11.8"),
        ("pytorch", "cuda=12.1 pytorch=2.3.0", "cuda12.1"),
    ],
)
def test_conda_packages(envtool, records: str, tmp_path: Path, template: str, settings: str, pytorch: str) -> None:
    made = envtool("init", template, *(part for each in settings.split() for part in ("--set", each)))
    assert made.returncode == 0, made.stderr
    answer = envtool("lock", ENVTOOL_MIRRORS=records)
    assert answer.returncode == 0, answer.stderr
    found = read_lockfile(tmp_path / "conda-lock.yml").packages
    assert pytorch in next(each.build_string or "" for each in found if each.name == "pytorch")
    cuda = settings.split("=")[1].split()[0]
    assert (cuda_of(found) or "").split(".")[0] == cuda.split(".")[0]


def test_a_driver_that_is_declared_too_old(envtool, records: str, tmp_path: Path) -> None:
    assert envtool("init", "conda-forge", "--set", "cuda=13.0", "--set", "python=3.14").returncode == 0
    path = tmp_path / "environment.yml"
    path.write_text(path.read_text().replace('__cuda: "13.0"', '__cuda: "12.9"'))
    answer = envtool("lock", ENVTOOL_MIRRORS=records)
    assert answer.returncode == 3
    assert "__cuda" in answer.stderr


@pytest.mark.parametrize(
    ("torch", "cuda", "runtime", "built_for"),
    [
        ("2.7.1", "11.8", "nvidia-cuda-runtime-cu11==11.8.89", "11.8"),
        ("2.8.0", "12.8", "nvidia-cuda-runtime-cu12==12.8.90", "12.8"),
        ("2.9.0", "13.0", "nvidia-cuda-runtime==13.0.48", "13.0"),
        ("2.8.0", "cpu", "", None),
    ],
)
def test_wheels(
    envtool, records: str, tmp_path: Path, torch: str, cuda: str, runtime: str, built_for: str | None
) -> None:
    build = "cpu" if cuda == "cpu" else "cu" + cuda.replace(".", "")
    with MirrorSimulator() as public, MirrorSimulator() as pytorchs:
        index = PackageIndex(public, tmp_path)
        for name in NEEDED:
            index.add(name.lower(), "30.0")
        if runtime:
            index.add(*runtime.split("=="))
        index.add("torch", f"{torch}.post1")  # the public one's, which is newer
        tag = "cp312-cp312-manylinux_2_28_x86_64"
        needs = f"Requires-Dist: {runtime}\n" if runtime else ""
        wheel = write_wheel(tmp_path, "torch", f"{torch}+{build}", {"torch.py": ""}, {}, tag=tag, metadata=needs)
        url = pytorchs.put(wheel.name, wheel)
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        page = f'<!DOCTYPE html><a href="{url}#sha256={sha256}">{wheel.name}</a>'
        pytorchs.put(f"{build}/torch/", page.encode())
        settings = [f"torch={torch}", f"cuda={cuda}", f"index={pytorchs.url.rstrip('/')}"]
        assert envtool("init", "wheels", *(part for each in settings for part in ("--set", each))).returncode == 0
        answer = envtool("lock", ENVTOOL_MIRRORS=records, PIP_INDEX_URL=index.url, UV_DEFAULT_INDEX="")
        assert answer.returncode == 0, answer.stderr
    found = read_lockfile(tmp_path / "conda-lock.yml").packages
    chosen = next(each for each in found if (each.manager, each.name) == ("pip", "torch"))
    assert (chosen.version, chosen.sha256) == (f"{torch}+{build}", sha256)
    assert cuda_of(found) == built_for
