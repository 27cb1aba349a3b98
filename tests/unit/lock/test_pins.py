"""A new package comes in the newest version with which everything else can stay, not in the newest of all."""

from __future__ import annotations

from pathlib import Path

from envtool.mirrors.mirrors import Mirrors
from envtool.solve.conda_solver import Repodata
from envtool.solve.lock import solve
from envtool.solve.solution import Preference, Sources
from envtool.spec.environment import Dependency, EnvironmentSpec, PlatformSpec
from envtool.spec.version_policy import VersionPolicy
from tests.unit.lock.test_cooldown import OLD, write_channel


def test_the_newest_gives_way_to_what_is_locked(tmp_path: Path) -> None:
    record = {"timestamp": OLD}
    channel = write_channel(
        tmp_path / "channel",
        {
            "a-1": record,
            "a-2": record,
            "x-1": {**record, "depends": ["a <2"]},
            "x-2": {**record, "depends": ["a >=2"]},
        },
    )
    platform = PlatformSpec("linux-64", (Dependency("x", "environment.yml:1"),))
    spec = EnvironmentSpec((Path("environment.yml"),), None, (channel,), (platform,))
    sources = Sources(Repodata(tmp_path / "cache", Mirrors()))
    preferences = {"linux-64": Preference(keep=(f"{channel}/noarch/a-1-0.conda",))}
    (answer,) = solve(spec, sources, VersionPolicy(), preferences)
    assert {each.name: each.version for each in answer.records} == {"a": "1", "x": "1"}
