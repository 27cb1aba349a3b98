"""Match specs that name a channel or a subdir, and what the solver makes of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from envtool.errors import SpecError
from envtool.mirrors.mirrors import Mirrors
from envtool.solve.conda_solver import Repodata
from envtool.solve.lock import solve
from envtool.solve.solution import Sources
from envtool.spec.channel_spec import DEFAULTS, find_channel, parse
from envtool.spec.environment import read_spec
from envtool.spec.version_policy import VersionPolicy

MAIN, R = DEFAULTS
OWN = "http://127.0.0.1:8900/team/pytorch"
CONDA_FORGE = "https://conda.anaconda.org/conda-forge"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pytorch-mutex", None),
        (f"{OWN}::pytorch-mutex", OWN),
        (f"{OWN}/::pytorch-mutex >=1", OWN),
        (f"{OWN}/linux-64::pytorch-mutex", OWN),
        ("pytorch::pytorch-mutex", OWN),
        ("team/pytorch::pytorch-mutex=1.0=cuda", OWN),
        (f"pytorch-mutex[channel='{OWN}']", OWN),
        (f'pytorch-mutex >=1 [build="c*", channel="{OWN}"]', OWN),
        ("pytorch:ns:pytorch-mutex", OWN),
        ("defaults::libgomp", MAIN),
        ("pkgs/main::libgomp", MAIN),
        ("main::libgomp", MAIN),
        ("main/noarch::libgomp", MAIN),
        ("libgomp[channel=defaults,subdir=noarch]", MAIN),
        (f"{MAIN}::libgomp", MAIN),
        ("defaults::r-base", R),
        ("conda-forge/noarch::tzdata", CONDA_FORGE),
        ("*::tzdata", None),
        ("*/noarch::tzdata", None),
    ],
)
def test_the_channel_is_the_listed_one(text: str, expected: str | None) -> None:
    parsed = parse(text)
    name = parsed.text.split()[0].split("[")[0].split("=")[0]
    channels = ("conda-forge", OWN, "defaults")
    assert (find_channel(parsed, name, channels, Path()) if parsed.channel else None) == expected
    assert "::" not in parsed.in_channel(expected)
    assert "noarch" not in parsed.text


@pytest.mark.parametrize("text", ["nvidia::x", "https://conda.anaconda.org/pytorch::x", "orch::x", "x[channel=torch]"])
def test_a_channel_that_is_not_listed(text: str) -> None:
    assert find_channel(parse(text), "x", (OWN, "conda-forge"), Path()) is None


def write_channel(directory: Path, name: str, **builds: str) -> str:
    for subdir in ("noarch", "linux-64"):
        record = {"name": "x", "version": "1.0", "build": builds.get(subdir.replace("-", "_")), "build_number": 0}
        record.update(subdir=subdir, depends=[], md5="0" * 32, sha256=hashlib.sha256(subdir.encode()).hexdigest())
        packages = {f"x-1.0-{record['build']}.tar.bz2": record} if record["build"] else {}
        place = directory / name / subdir
        place.mkdir(parents=True)
        (place / "repodata.json").write_text(json.dumps({"info": {"subdir": subdir}, "packages": packages}))
    return (directory / name).as_uri()


def lock(tmp_path: Path, line: str, *channels: str) -> str:
    source = tmp_path / "environment.yml"
    source.write_text(json.dumps({"channels": channels, "platforms": ["linux-64"], "dependencies": [line]}))
    sources = Sources(Repodata(tmp_path / "cache", Mirrors()))
    return solve(read_spec([source]), sources, VersionPolicy())[0].records[0].url


def test_the_solver_takes_it_from_there(tmp_path: Path) -> None:
    first = write_channel(tmp_path, "first", linux_64="a_0", noarch="py_0")
    second = write_channel(tmp_path, "second", linux_64="b_0")
    for line in ("second::x", f"{second}::x", f"x[channel={second}]", "second/linux-64::x"):
        assert lock(tmp_path, line, first, second) == f"{second}/linux-64/x-1.0-b_0.tar.bz2"
    for line in ("x[subdir=noarch]", "first/noarch::x", "x=1.0[subdir='noarch']"):
        assert lock(tmp_path, line, first, second) == f"{first}/noarch/x-1.0-py_0.tar.bz2"
    with pytest.raises(Exception, match="no channel has x in the subdir noarch"):
        lock(tmp_path, "second/noarch::x", second)
    with pytest.raises(SpecError, match=r"x is wanted from the channel third, which is not among the channels"):
        lock(tmp_path, "third::x", first, second)
