"""After any edit of the sources, nothing has moved that could have stayed."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envtool.errors import SolveError
from envtool.inspect_lock.moves import moves
from envtool.mirrors.mirrors import Mirrors
from envtool.solve.conda_solver import Repodata, SolveRequest
from envtool.solve.lock import lock, update
from envtool.solve.solution import Sources, hold_most
from envtool.solve.staleness import request as request_of

NAMES = [f"p{number}" for number in range(7)]
BOUNDS = ["", " >=2", " <2", " <3", " >=3", " ==2"]
SPEC = st.builds(lambda name, bound: name + bound, st.sampled_from(NAMES), st.sampled_from(BOUNDS))


@st.composite
def channels(draw) -> dict[str, dict[str, object]]:
    records = {}
    for position, name in enumerate(NAMES):
        for version in range(1, draw(st.integers(2, 4)) + 1):
            lower = st.builds(
                lambda other, bound: other + bound,
                st.sampled_from(NAMES[:position] or NAMES[:1]),
                st.sampled_from(BOUNDS),
            )
            depends = draw(st.lists(lower, max_size=2)) if position else []
            content = f"{name}-{version}".encode()
            records[f"{name}-{version}-0.conda"] = {
                "name": name,
                "version": str(version),
                "build": "0",
                "build_number": 0,
                "subdir": "noarch",
                "depends": depends,
                "constrains": draw(st.lists(lower, max_size=1)) if position else [],
                "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
                "sha256": hashlib.sha256(content).hexdigest(),
                "size": 1,
                "timestamp": 1_700_000_000_000,
            }
    return records


def write_channel(directory: Path, records: dict[str, dict[str, object]]) -> None:
    for subdir in ("noarch", "linux-64"):
        (directory / subdir).mkdir(parents=True, exist_ok=True)
        found = records if subdir == "noarch" else {}
        repodata = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": found, "repodata_version": 1}
        (directory / subdir / "repodata.json").write_text(json.dumps(repodata))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(channels(), st.lists(SPEC, min_size=1, max_size=4), st.lists(SPEC, min_size=1, max_size=4), st.booleans())
def test_nothing_moved_that_could_have_stayed(records, before, after, is_edit) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_channel(root / "old", {name: each for name, each in records.items() if each["version"] in ("1", "2")})
        write_channel(root / "channel", records)
        sources = Sources(Repodata(root / "cache", Mirrors()), Mirrors())

        def wanted(lines: list[str], channel: str):
            text = (
                f"channels: [{(root / channel).as_uri()}]\nplatforms: [linux-64]\ndependencies: {json.dumps(lines)}\n"
            )
            (root / "environment.yml").write_text(text)
            return request_of([root / "environment.yml"], root / "conda-lock.yml", None, {})

        try:
            old = lock(wanted(before, "old"), sources)
        except SolveError:
            return
        # The channel is the same one, which has newer versions by now.
        here, there = (root / "old").as_uri(), (root / "channel").as_uri()
        old = replace(old, packages=tuple(replace(p, url=p.url.replace(here, there)) for p in old.packages))
        request = wanted([*before, *after] if is_edit else after, "channel")
        try:
            new = update(old, (), request, sources)
        except SolveError as error:
            try:
                lock(request, sources)
            except SolveError:
                return
            raise AssertionError("a fresh lock is possible") from error
        moved = moves(old, new, request, sources.repodata)
        stayed = [each for each in old.packages if each in new.packages]
        for each in moved:
            assert each.reason
            name = each.difference.name
            assert name not in {package.name for package in stayed}
            pinned = [*stayed, next(package for package in old.packages if package.name == name)]
            pins = tuple(f"{package.name} =={package.version}" for package in pinned)
            (line,) = request.spec.platforms
            texts = tuple(dependency.text for dependency in line.conda)
            (answer,) = sources.repodata.solve([SolveRequest("linux-64", request.spec.channels, texts, {}, pins)])
            assert isinstance(answer, SolveError), f"{name} could have stayed"


@given(st.sets(st.integers(0, 15)), st.lists(st.sets(st.integers(0, 15), min_size=1, max_size=3), max_size=5))
def test_as_much_is_held_as_can_be(important, forbidden) -> None:
    def attempt(held):
        return None if any(each <= set(held) for each in forbidden) else frozenset(held)

    others = sorted(set(range(16)) - important)
    if attempt(range(16)) is not None:
        return
    held = hold_most(
        sorted(important), others, lambda many: [attempt(each) for each in many], lambda item, answer: item in answer
    )
    assert held is not None
    assert all(attempt([*held, each]) is None for each in set(range(16)) - held)
