"""A new package comes in the newest version with which everything else can stay, not in the newest of all."""

from __future__ import annotations

from pathlib import Path

from envtool.mirrors.mirrors import Mirrors
from envtool.solve import lock as module
from envtool.solve.conda_solver import Repodata, SolveRequest
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
    request = SolveRequest("linux-64", (channel,), ("x",), {}, keep=(f"{channel}/noarch/a-1-0.conda",))
    (answer,) = module._with_fewest_moves([request], Repodata(tmp_path / "cache", Mirrors()))
    assert isinstance(answer, list), answer
    assert {each.name: each.version for each in answer} == {"a": "1", "x": "1"}
