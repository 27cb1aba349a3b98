"""Which records count as too young, by package, by channel and by the time that the channel's server has set."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from envtool.mirrors.mirrors import Mirrors
from envtool.solve.conda_solver import Repodata, SolveRequest
from envtool.solve.lock import LockRequest
from envtool.spec.environment import read_spec
from envtool.spec.version_policy import VersionPolicy

CUTOFF = datetime(2025, 1, 1, tzinfo=timezone.utc)
OLD, YOUNG = 1_700_000_000_000, 1_760_000_000_000


def write_channel(directory: Path, times: dict[str, dict[str, Any]]) -> str:
    records = {}
    for stem, fields in times.items():
        name, version = stem.split("-")
        records[f"{stem}-0.conda"] = {
            "name": name, "version": version, "build": "0", "build_number": 0, "subdir": "noarch", "depends": [],
            "md5": "0" * 32, "sha256": "0" * 64, "size": 1, **fields,
        }  # fmt: skip
    for subdir in ("noarch", "linux-64"):
        (directory / subdir).mkdir(parents=True)
        found = records if subdir == "noarch" else {}
        repodata = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": found, "repodata_version": 1}
        (directory / subdir / "repodata.json").write_text(json.dumps(repodata))
    return directory.as_uri()


@pytest.fixture
def channel(tmp_path: Path) -> str:
    times = {f"{name}-{version}": {"timestamp": time} for name in "ab" for version, time in ((1, OLD), (2, YOUNG))}
    return write_channel(tmp_path / "channel", times)


def versions(
    tmp_path: Path, channels: list[str], policy: VersionPolicy, names: tuple[str, ...] = ("a", "b")
) -> dict[str, str]:
    request = SolveRequest("linux-64", tuple(channels), names, {}, policy=policy)
    (answer,) = Repodata(tmp_path / "cache", Mirrors()).solve([request])
    assert isinstance(answer, list), answer
    return {each.name: each.version for each in answer}


def test_one_package_is_let_through(tmp_path: Path, channel: str) -> None:
    assert versions(tmp_path, [channel], VersionPolicy(exclude_newer=CUTOFF)) == {"a": "1", "b": "1"}
    through = VersionPolicy(exclude_newer=CUTOFF, of_packages={"a": None})
    assert versions(tmp_path, [channel], through) == {"a": "2", "b": "1"}
    assert versions(tmp_path, [channel], VersionPolicy(of_packages={"a": CUTOFF})) == {"a": "1", "b": "2"}


def test_one_channel_is_let_through_and_the_first_still_has_priority(tmp_path: Path, channel: str) -> None:
    own = write_channel(tmp_path / "own", {"b-3": {"timestamp": YOUNG}})
    through = VersionPolicy(exclude_newer=CUTOFF, of_channels={own: None})
    assert versions(tmp_path, [own, channel], through) == {"a": "1", "b": "3"}
    assert versions(tmp_path, [channel, own], through) == {"a": "1", "b": "1"}


def test_the_time_of_the_server_goes_before_that_of_the_builder(tmp_path: Path) -> None:
    rattler = pytest.importorskip("rattler")
    if not hasattr(rattler.PackageRecord, "indexed_timestamp"):
        pytest.skip("this py-rattler does not read indexed_timestamp")
    times = {
        "a-1": {"timestamp": YOUNG, "indexed_timestamp": OLD},
        "a-2": {"timestamp": OLD, "indexed_timestamp": YOUNG},
    }
    served = write_channel(tmp_path / "served", times)
    for policy in (VersionPolicy(exclude_newer=CUTOFF), VersionPolicy(exclude_newer=CUTOFF, of_packages={"z": None})):
        assert versions(tmp_path, [served], policy, ("a",)) == {"a": "1"}


def test_what_environment_yml_says(tmp_path: Path) -> None:
    path = tmp_path / "environment.yml"
    path.write_text(
        "channels: [conda-forge, ./own]\nexclude-newer: P7D\nexclude-newer-package: {OpenSSL: false, numpy: 1 week}\n"
        "exclude-newer-channel: {./own: false}\ndependencies: [python]\n"
    )
    now = datetime(2026, 1, 8, tzinfo=timezone.utc)
    policy = LockRequest(read_spec([path]), tmp_path / "conda-lock.yml").policy(now)
    assert policy.exclude_newer == datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert policy.of_packages == {"openssl": None, "numpy": policy.exclude_newer}
    assert policy.of_channels == {(tmp_path / "own").as_uri(): None}
