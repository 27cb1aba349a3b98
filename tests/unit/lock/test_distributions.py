"""Which Python distributions conda packages bring."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from envtool.errors import SolveError
from envtool.fetch.archive_cache import Cache
from envtool.mirrors.mirrors import Mirrors
from envtool.pypi.distributions import (
    DISTRIBUTION_NAMES,
    Provided,
    distributions_in,
    extras_of,
    pep440,
    provided_distributions,
)
from envtool.pypi.resolve import Resolution, Target, WheelRequest
from envtool.solve.conda_solver import PackageRecord
from tests.support.archives import Archive, File, locked

PLACES = ("site-packages", "lib/python3.9/site-packages", "lib/python3.13t/site-packages", "Lib/site-packages")
INFO_FILES = ("foo_Bar-2.0.dist-info/METADATA", "foo.bar-2.0-py3.9.egg-info/PKG-INFO", "foo-bar-2.0.egg-info")


def record(name: str, version: str = "1.0", url: str = "https://h/noarch/a-1-0.conda", **more: object) -> PackageRecord:
    values: dict[str, object] = {"depends": ("python >=3.9",), **more}
    return PackageRecord(name, version, "0", "noarch", url, None, None, None, **values)  # type: ignore[arg-type]


def names(tmp_path: Path, *records: PackageRecord) -> dict[str, tuple[str, str]]:
    found = provided_distributions(records, Cache(tmp_path / "cache"))
    return {name: (each.version, each.record.name) for name, each in found.items()}


def test_names_come_from_the_table_from_purls_and_else_are_condas(tmp_path: Path) -> None:
    own = record("inhouse-core", purls=("pkg:pypi/In.House@9", "pkg:conda/other@1"), depends=())
    found = names(tmp_path, record("torchtriton", "2.3.0"), record("py-opencv"), record("ruamel.yaml"), own)
    assert found.keys() == {"triton", "opencv-python", "opencv-python-headless", "ruamel-yaml", "in-house"}
    assert found["triton"] == ("2.3.0", "torchtriton")


@pytest.mark.parametrize(
    "depends", [("python",), ("python>=3.9",), ("python_abi 3.9.* *_cp39",), ("python[version='>=3']",)]
)
def test_what_needs_python_is_a_distribution(tmp_path: Path, depends: tuple[str, ...]) -> None:
    assert names(tmp_path, record("thing", depends=depends)).keys() == {"thing"}
    assert not names(tmp_path, record("thing", depends=("python-thing", "libpython")))


def test_of_two_packages_the_one_that_has_the_files_tells_the_version(tmp_path: Path) -> None:
    for records in ([record("matplotlib", "3.8"), record("matplotlib-base", "3.8.4")],) * 2:
        assert names(tmp_path, *records) == names(tmp_path, *reversed(records))
        assert names(tmp_path, *records)["matplotlib"] == ("3.8.4", "matplotlib-base")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("suffix", [".conda", ".tar.bz2"])
@pytest.mark.parametrize(
    "file", ["foo_Bar-2.0.dist-info/METADATA", "foo.bar-2.0-py3.9.egg-info/PKG-INFO", "foo-bar-2.0.egg-info"]
)
def test_an_archive_tells_by_itself(tmp_path: Path, place: str, suffix: str, file: str) -> None:
    vendored = f"{place}/foo/_vendor/bar-1.0.dist-info/METADATA"
    files = {f"{place}/{file}": File(b"Name: x"), vendored: File(b""), f"share/{file}": File(b"")}
    archive = Archive("foo-base", files).write(tmp_path, suffix)
    assert distributions_in(archive) == {"foo-bar": "2.0"}
    assert names(tmp_path, record("foo-base", url=locked(archive).url))["foo-bar"] == ("2.0", "foo-base")


def test_a_table_of_normal_names() -> None:
    every = [name for package, brought in DISTRIBUTION_NAMES.items() for name in (package, *brought)]
    assert every == [canonicalize_name(name) for name in every]
    assert all(brought and brought != (package,) for package, brought in DISTRIBUTION_NAMES.items())


@pytest.mark.parametrize(
    ("conda", "expected"),
    [("2.3.0", "2.3.0"), ("2024a", "2024a0"), ("1.1.1w", "1.1.1"), ("9e", "9"), ("1.0_rc1", "1.0rc1"), ("x", "0")],
)
def test_versions_of_conda_as_python_packages_write_them(conda: str, expected: str) -> None:
    assert pep440(conda) == expected


def test_an_empty_metadata_tells_no_extras(tmp_path: Path) -> None:
    archive = Archive("foo", {"site-packages/foo-1.0.dist-info/METADATA": File(b"")}).write(tmp_path, ".conda")
    foo, cache = Provided("foo", "1.0", record("foo", url=locked(archive).url)), Cache(tmp_path / "cache")
    index = (tmp_path / "empty").as_uri()
    asked = Resolution(WheelRequest(Target("linux-64", "3.9", None), (), index_url=index), tmp_path, {})
    with pytest.raises(SolveError, match="neither in the archive nor in the index"):
        extras_of(foo, asked, cache, Mirrors())
