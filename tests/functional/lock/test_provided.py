"""Wheels beside what conda brings: real uv, an index of the test's own on the loopback interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from envtool.errors import SolveError
from envtool.lockfile.model import LockedPackage
from envtool.mirrors.mirrors import Mirrors
from envtool.pypi import resolve
from envtool.pypi.resolve import Target, WheelRequest
from tests.support.archives import Archive, File, locked
from tests.support.mirror_simulator import MirrorSimulator
from tests.support.package_index import PackageIndex, provided

INFO = "site-packages/uvi_corn-1.0.dist-info"
METADATA = """\
Metadata-Version: 2.1
Name: uvi.corn
Version: 1.0
Requires-Dist: never-published
Requires-Dist: loop (>=1) ; extra == "fast"
Requires-Dist: uvi-corn[fast] ; extra == 'all'
Provides-Extra: fast
Provides-Extra: all
"""


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "ENVTOOL_MIRRORS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"PIP_CONFIG_FILE": "/dev/null", "ENVTOOL_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    with MirrorSimulator() as mirror:
        yield PackageIndex(mirror, tmp_path)


def choose(index: PackageIndex, *lines: str, **more: object) -> dict[str, str]:
    request = WheelRequest(Target("linux-64", "3.9.2"), lines, index_url=index.url, **more)  # type: ignore[arg-type]
    return {each.name: each.version for each in resolve.choose(request, Mirrors())}


@pytest.mark.parametrize(
    ("needs", "more"),
    [((), ""), (("nvidia-thing",), ""), (("mpmath<1",), ""), ((), "Requires-Python: >=3.99\n")],
    ids=["same", "needs", "bound", "python"],
)
def test_the_index_has_no_say_in_what_conda_brings(index: PackageIndex, needs: tuple[str, ...], more: str) -> None:
    index.add("torch", "2.3.0", needs, more=more)
    index.add("nvidia-thing")
    index.add("metrics", needs=["torch>=2", "mpmath"])
    brought = {**provided("torch", "2.3.0", "pytorch"), **provided("mpmath", "1.4.1")}
    assert choose(index, "metrics", "torch", provided=brought) == {"metrics": "1.0"}
    assert index.asked_for == {"metrics"}


def test_a_name_that_no_index_has(index: PackageIndex) -> None:
    index.add("metrics", needs=["private-thing>=3"])
    assert choose(index, "metrics", provided=provided("private-thing", "3.1")) == {"metrics": "1.0"}


def test_another_version_than_condas_is_refused_with_its_package(index: PackageIndex) -> None:
    index.add("torch", "2.4.0")
    index.add("metrics", needs=["torch>=2.4"])
    with pytest.raises(SolveError, match=r"torch 2\.3\.0 is brought by the conda package pytorch"):
        choose(index, "metrics", provided=provided("torch", "2.3.0", "pytorch"))


def test_a_file_of_what_conda_brings_is_refused(index: PackageIndex) -> None:
    url = index.add("torch", "2.3.0")[1]
    with pytest.raises(SolveError, match=r"the conda package pytorch 2\.3\.0"):
        choose(index, f"torch @ {url}", provided=provided("torch", "2.3.0", "pytorch"))


@pytest.mark.parametrize("line", ["uvi-corn[fast]", "uvi_corn[all]", "web"])
def test_extras_are_those_of_the_archive(index: PackageIndex, tmp_path: Path, line: str) -> None:
    index.add("uvi-corn", "1.0", ["stranger ; extra == 'fast'"], more="Provides-Extra: fast\n")
    index.add("loop", "1.5")
    index.add("web", needs=["uvi-corn[fast]"])
    files = {f"{INFO}/METADATA": File(METADATA.encode())}
    archive = Archive("corn", files, noarch="python", subdir="noarch").write(tmp_path / "channel")
    brought = provided("uvi-corn", "1.0", "corn", locked(archive).url)
    assert choose(index, line, provided=brought).keys() == {"loop"} | ({"web"} & {line})
    assert "uvi-corn" not in index.asked_for


def test_extras_are_those_of_the_index_where_the_archive_cannot_be_had(index: PackageIndex) -> None:
    index.add("uvi-corn", "1.0", ["loop; extra == 'fast'", "never-published"], more="Provides-Extra: fast\n")
    index.add("loop", "1.5")
    assert choose(index, "uvi-corn[fast]", provided=provided("uvi-corn", "1.0")) == {"loop": "1.5"}
    with pytest.raises(SolveError, match="what its extras need cannot be found"):
        choose(index, "other[fast]", provided=provided("other", "1.0"))


def test_indexes_that_only_the_machine_names_are_not_asked(
    index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("six")
    with MirrorSimulator() as mirror:
        own = PackageIndex(mirror, tmp_path / "own")
        (tmp_path / "own").mkdir()
        own.add("ours")
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        monkeypatch.setenv("UV_INDEX", index.url)
        monkeypatch.setenv("UV_EXTRA_INDEX_URL", index.url)

        def request(*lines: str, urls: tuple[str, ...] = (own.url,)) -> list[LockedPackage]:
            target = Target("linux-64", "3.9.2")
            closed = WheelRequest(target, lines, extra_index_urls=urls, allows_default_index=False)
            return resolve.choose(closed, Mirrors())

        assert [each.name for each in request("ours")] == ["ours"]
        for urls in ((own.url,), ()):
            with pytest.raises(SolveError) as caught:
                request("six", urls=urls)
            assert "allow-pypi-requests is false" in (caught.value.hint or "")
        assert not index.asked_for
