from __future__ import annotations

import random
import string
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envtool.inspect_lock.diff import compare
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile, format_lockfile, parse_lockfile
from envtool.solve.conflicts import smallest_conflict
from envtool.solve.recorded_inputs import compare as compare_inputs
from envtool.solve.recorded_inputs import serialize
from envtool.spec import environment_yml
from envtool.spec.environment import Dependency, combine
from envtool.yaml_document import dump

NAMES = st.text(string.ascii_lowercase + string.digits + "_-.", min_size=1, max_size=12).map(lambda text: f"p{text}")
# Anything that a version may look like to a YAML reader: 1.0, 1e3, 0x1, 1_000, 2024.01, null.
VERSIONS = st.one_of(
    st.from_regex(r"\A[0-9]{1,4}(\.[0-9]{1,3}){0,3}([a-z]{1,3}[0-9]?)?\Z"),
    st.sampled_from(["1e3", "0x10", "0o7", "1_0", "2024.10", "12:30", "007", "1.10"]),
)
HEX = st.integers(0, 2**128 - 1)
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)
PLATFORMS = st.sampled_from(["linux-64", "linux-aarch64", "osx-arm64"])


@st.composite
def packages(draw) -> LockedPackage:
    manager = draw(st.sampled_from(["conda", "pip"]))
    name, version = draw(NAMES), draw(VERSIONS)
    digits = draw(st.integers(0, 2**256 - 1))
    suffix = ".conda" if manager == "conda" else "-py3-none-any.whl"
    return LockedPackage(
        manager=manager,
        name=name,
        version=version,
        platform=draw(PLATFORMS),
        url=f"https://host.example/channel/noarch/{name}-{version}{suffix}",
        sha256=f"{digits:064x}",
        md5=f"{draw(HEX):032x}" if manager == "conda" else None,
        dependencies=draw(st.dictionaries(NAMES, st.sampled_from(["", ">=1.0,<2", "3.9.* *_cp39", "*"]), max_size=3)),
        category=draw(st.sampled_from(["main", "dev", "test-1"])),
        size_bytes=(digits >> 208) % 5 or None,  # one content has one size
    )


@st.composite
def lockfiles(draw) -> Lockfile:
    unique = {each.sort_key: each for each in draw(st.lists(packages(), max_size=6))}
    platforms = tuple(sorted({each.platform for each in unique.values()} | {"linux-64"}))
    return Lockfile(
        packages=tuple(unique[key] for key in sorted(unique)),
        channels=tuple(
            draw(st.lists(st.sampled_from(["conda-forge", "https://host.example/c"]), min_size=1, unique=True))
        ),
        platforms=platforms,
        sources=("environment.yml",),
        content_hash={platform: f"{draw(HEX):064x}" for platform in platforms},
        custom_metadata=draw(
            st.dictionaries(NAMES, st.one_of(TEXT, TEXT.map(lambda text: f"{text}\nnext\n")), max_size=3)
        ),
    )


@given(lockfiles())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_parse_after_write_is_the_identity(lockfile: Lockfile) -> None:
    text = format_lockfile(lockfile)
    assert parse_lockfile("lock", text) == lockfile
    assert format_lockfile(parse_lockfile("lock", text)) == text


@given(lockfiles())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_conda_locks_own_models_would_write_the_same(lockfile: Lockfile) -> None:
    from conda_lock.lockfile.v1.models import Lockfile as Model

    text = format_lockfile(lockfile)
    stated = yaml.safe_load(text)
    if "version" not in Model.model_fields:  # conda-lock 3 takes it off before
        assert stated.pop("version") == Model.version
    theirs = Model.model_validate(stated).dict_for_output()
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("# "))
    assert header + dump(theirs) == text


@given(lockfiles(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_order_of_packages_never_changes_the_bytes(lockfile: Lockfile, shuffle: random.Random) -> None:
    from dataclasses import replace

    shuffled = list(lockfile.packages)
    shuffle.shuffle(shuffled)
    assert format_lockfile(replace(lockfile, packages=tuple(shuffled))) == format_lockfile(lockfile)


def order(manager: str, first: str, second: str) -> int:
    return (first > second) - (first < second)


@given(lockfiles(), lockfiles())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_diff_turned_round_says_the_opposite(old: Lockfile, new: Lockfile) -> None:
    opposite = {
        "added": "removed",
        "removed": "added",
        "upgraded": "downgraded",
        "downgraded": "upgraded",
        "rebuilt": "rebuilt",
    }
    there, back = compare(old, new, order), compare(new, old, order)
    turned = {(opposite[e.kind], e.manager, e.name, e.after, e.before, e.platforms) for e in there}
    assert turned == {(e.kind, e.manager, e.name, e.before, e.after, e.platforms) for e in back}
    assert compare(old, old, order) == []


LINES = ["python=3.9", "numpy >=1.20,<2", "flask", "pytorch::pytorch=2.3", "zlib  # [linux]", "openssl =3"]


def document(lines: list[str], comment: str) -> str:
    listed = "".join(f"  - {line}\n" for line in lines)
    return f"# {comment}\nchannels: [conda-forge]\nplatforms: [linux-64, osx-arm64]\ndependencies:\n{listed}"


@given(st.permutations(LINES), st.text(string.ascii_letters, max_size=8))
@settings(max_examples=40, deadline=None)
def test_the_order_of_lines_and_comments_never_make_a_lock_stale(lines: list[str], comment: str) -> None:
    first = combine([environment_yml.parse(Path("environment.yml"), document(LINES, "first"))])
    other = combine([environment_yml.parse(Path("environment.yml"), document(lines, comment))])
    assert serialize(first, {}) == serialize(other, {})
    assert compare_inputs(serialize(first, {}), other, {}) == []


@given(st.lists(st.sampled_from(LINES), unique=True, min_size=1), st.sampled_from(LINES))
@settings(max_examples=40, deadline=None)
def test_a_line_that_is_there_or_not_is_always_noticed(lines: list[str], line: str) -> None:
    with_line = sorted({*lines, line})
    without = [each for each in with_line if each != line]
    if not [each for each in without if "#" not in each]:
        return
    first = combine([environment_yml.parse(Path("environment.yml"), document(with_line, ""))])
    other = combine([environment_yml.parse(Path("environment.yml"), document(without, ""))])
    assert [change.kind for change in compare_inputs(serialize(first, {}), other, {})] == ["removed"]
    assert [each.kind for each in compare_inputs(serialize(other, {}), first, {})] == ["added"]


@given(st.sets(st.integers(0, 15), min_size=1, max_size=5), st.sets(st.integers(0, 15), max_size=16))
@settings(max_examples=200, deadline=None)
def test_the_smallest_conflict_is_a_conflict_and_smallest(conflict: set[int], others: set[int]) -> None:
    lines = [Dependency(str(each), f"environment.yml:{each}") for each in sorted(conflict | others)]
    wanted = {str(each) for each in conflict}

    def is_satisfiable(chosen) -> bool:
        return not wanted <= {each.text for each in chosen}

    assert {each.text for each in smallest_conflict(lines, is_satisfiable)} == wanted
