"""The wheel of envtool where it runs from no checkout, and what it needs on another machine."""

from __future__ import annotations

import zipfile
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

from envtool.bundle import envtool_wheels
from envtool.errors import BundleError
from envtool.lockfile.conda_lock_v1 import write_lockfile
from envtool.mirrors.mirrors import Mirrors
from tests.support.archives import lock_of

INFO = "envserve-0.1.dist-info"
METADATA = """\
Metadata-Version: 2.4
Name: envserve
Version: 0.1
Provides-Extra: envtool
Requires-Dist: click>=8.1; extra == "envtool"
Requires-Dist: conda-lock>=3; extra == "envtool"
Requires-Dist: tomli>=2; python_version < "3.11" and extra == "envtool"
Requires-Dist: cryptography>=42; extra == "sign"
Requires-Dist: torch; extra == "dev"
"""


def installed(root: Path) -> Distribution:
    files = {
        "envtool/__init__.py": "x = 1\n",
        "envtool/__pycache__/__init__.cpython-39.pyc": "byte-code",
        "envtool/py.typed": "",
        f"{INFO}/METADATA": METADATA,
        f"{INFO}/INSTALLER": "pip\n",
        f"{INFO}/direct_url.json": "{}",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / INFO / "RECORD").write_text("".join(f"{name},,\n" for name in (*files, "../../../bin/envtool")))
    return PathDistribution(root / INFO)


def test_what_is_installed_becomes_its_wheel_again(tmp_path: Path) -> None:
    wheels = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        source = installed(tmp_path / "site") if number < 2 else PathDistribution(tmp_path / "unpacked" / INFO)
        wheels.append(envtool_wheels.repack(source, tmp_path / str(number)))
        with zipfile.ZipFile(wheels[-1]) as archive:
            archive.extractall(tmp_path / "unpacked")
            names = archive.namelist()
    assert names == ["envserve-0.1.dist-info/METADATA", "envtool/__init__.py", "envtool/py.typed", f"{INFO}/RECORD"]
    assert len({path.read_bytes() for path in wheels}) == 1


def test_an_editable_installation_is_no_wheel(tmp_path: Path) -> None:
    distribution = installed(tmp_path)
    (tmp_path / INFO / "RECORD").write_text(f"{INFO}/METADATA,,\n__editable__.pth,,\n")
    with pytest.raises(BundleError, match="no wheel can be made of"):
        envtool_wheels.repack(distribution, tmp_path)


def test_remembered_tools_have_to_fit(tmp_path: Path) -> None:
    wheel = envtool_wheels.repack(installed(tmp_path / "site"), tmp_path)
    path = tmp_path / "tools-lock.yml"
    write_lockfile(path, lock_of(requirements="[]"))
    with pytest.raises(BundleError, match=r"no tools for Python 3\.9 on linux-64"):
        envtool_wheels.remembered(path, wheel, ["linux-64"], ["3.9"], Mirrors())
    with pytest.raises(BundleError, match="for an envtool that needs other packages"):
        envtool_wheels.remembered(path, wheel, [], [], Mirrors())
