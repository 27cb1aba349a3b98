"""Hashes that requirements pin, against real uv and an index of the test's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from envtool.errors import SolveError
from envtool.mirrors.mirrors import Mirrors
from envtool.pypi import resolve
from envtool.pypi.resolve import Target, WheelRequest
from envtool.spec import pip_requirements
from envtool.spec.pip_requirements import Line
from tests.support.mirror_simulator import MirrorSimulator
from tests.support.package_index import PackageIndex

_OPTION_KINDS = ("sha256", "sha384", "sha512")
_URL_KINDS = ("md5", "sha1", "sha224", *_OPTION_KINDS)


class Pinned:
    """An index with one version in two wheels, the second of which pip would take by itself."""

    def __init__(self, index: PackageIndex) -> None:
        self.any, _ = index.add("idna", "3.4")
        self.best, self.url = index.add("idna", "3.4", tag="cp39-cp39-manylinux_2_17_x86_64")
        self._index_url = index.url

    def hash(self, kind: str, path: Path | None = None) -> str:
        return hashlib.new(kind, (path or self.best).read_bytes()).hexdigest()

    def lock(self, line: str, *constraints: str, requires_hashes: bool = False) -> str:
        target = Target("linux-64", "3.9.2", "2.31")
        url = self._index_url
        request = WheelRequest(target, (line,), constraints, index_url=url, requires_hashes=requires_hashes)
        return resolve.choose(request, Mirrors())[0].sha256


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pinned]:
    home = tmp_path_factory.mktemp("pinned")
    with MirrorSimulator() as mirror, pytest.MonkeyPatch.context() as patch:
        for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "ENVTOOL_MIRRORS"):
            patch.delenv(name, raising=False)
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.setenv("ENVTOOL_HOME", str(home / "home"))
        yield Pinned(PackageIndex(mirror, home))


@pytest.mark.parametrize("kind", _OPTION_KINDS)
def test_a_line_locks_a_file_of_its_hashes_and_no_other(pinned: Pinned, kind: str) -> None:
    right, wrong = f"--hash={kind}:{pinned.hash(kind).upper()}", f"--hash={kind}:{'0' * len(pinned.hash(kind))}"
    for line in (f"idna==3.4 {right}", f"idna==3.4 {wrong} {right}", f"idna {right} --hash sha256:{'1' * 64}"):
        assert pinned.lock(line) == pinned.hash("sha256")
    with pytest.raises(SolveError, match="pinned hash"):
        pinned.lock(f"idna==3.4 {wrong}")


@pytest.mark.parametrize("kind", _OPTION_KINDS)
def test_the_pinned_file_is_taken_where_another_fits_better(pinned: Pinned, kind: str) -> None:
    line = f"idna==3.4 --hash={kind}:{pinned.hash(kind, pinned.any)}"
    assert pinned.lock(line) == pinned.hash("sha256", pinned.any) != pinned.hash("sha256")


@pytest.mark.parametrize("kind", _URL_KINDS)
def test_the_hash_in_a_url_is_checked(pinned: Pinned, kind: str) -> None:
    digits = pinned.hash(kind)
    assert pinned.lock(f"idna @ {pinned.url}#egg=idna&{kind}={digits}") == pinned.hash("sha256")
    assert pinned.lock(f"idna @ {pinned.url}#{kind}={'0' * len(digits)} --hash=sha256:{pinned.hash('sha256')}")
    with pytest.raises(SolveError, match="pinned hash"):
        pinned.lock(f"idna @ {pinned.url}#{kind}={'0' * len(digits)}")


def test_constraints_have_a_say(pinned: Pinned) -> None:
    right, other = (f"idna==3.4 --hash=sha256:{pinned.hash('sha256', each)}" for each in (pinned.best, pinned.any))
    assert pinned.lock("idna", right) == pinned.lock(right, right) == pinned.hash("sha256")
    with pytest.raises(SolveError, match="pinned hash"):
        pinned.lock(right, other)


def test_where_all_hashes_are_required(pinned: Pinned) -> None:
    found = pip_requirements.parse([Line("--require-hashes", "environment.yml:7")], Path())
    assert found.requires_hashes
    assert not found.issues
    assert pinned.lock(f"idna --hash=sha256:{pinned.hash('sha256')}", requires_hashes=True)
    with pytest.raises(SolveError, match="expected one, since --require-hashes"):
        pinned.lock("idna==3.4", requires_hashes=True)


@pytest.mark.parametrize(
    "line",
    [
        f"idna==3.4 --hash=md5:{'0' * 32}",
        f"idna==3.4 --hash=blake2b:{'0' * 128}",
        "idna==3.4 --hash=sha256:00",
        "idna==3.4 --hash=sha256",
        f"idna==3.4 --hash=sha256:{'0' * 64} --hash=sha1:{'0' * 40}",
        f"idna @ https://host.invalid/idna-3.4-py3-none-any.whl#blake2b={'0' * 128}",
        "idna @ https://host.invalid/idna-3.4-py3-none-any.whl#sha256=xyz",
    ],
)
def test_what_cannot_be_checked_is_refused(line: str) -> None:
    found = pip_requirements.parse([Line(line, "environment.yml:7")], Path())
    assert [issue.place for issue in found.issues] == ["environment.yml:7"]
    assert not found.requirements
