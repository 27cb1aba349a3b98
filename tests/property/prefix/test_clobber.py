"""Who wins a path, over families of packages: py-rattler sorts them, and a plain simulation writes wheels."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envtool.errors import EnvtoolError
from envtool.prefix import layout
from envtool.prefix.rattler import link_order

NAMES = [f"p{number}" for number in range(7)]
PATHS = ["a", "a/b", "a/b/c", "a/b/d", "a/e", "f", "g/h", "g/h/i/j"]


@given(
    st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=4)),
    st.sets(st.sampled_from(NAMES)),
)
@settings(deadline=None, max_examples=300)
def test_each_package_comes_after_those_that_it_needs(depends: dict[str, list[str]], noarch: set[str]) -> None:
    kept = {name: [each for each in needs if each < name] for name, needs in depends.items()}  # no circles
    specs = {name: [f"{each} >=1,<2" for each in needs] for name, needs in kept.items()}
    order = link_order(specs, noarch)
    assert sorted(order) == sorted(depends)
    assert all(order.index(each) < order.index(name) for name in kept for each in kept[name] if each in depends)
    assert sorted(link_order(depends, noarch)) == sorted(depends)


def test_names_are_given_as_they_were_written() -> None:
    assert link_order({"Foo": ["bar"], "bar": []}, ()) == ["bar", "Foo"]
    with pytest.raises(EnvtoolError, match="'a b' is not a valid package name"):
        link_order({"a b": []}, ())


def brought(manager: str) -> st.SearchStrategy[dict[tuple[str, str], list[str]]]:
    def plain(paths: list[str]) -> list[str]:  # no archive has a file below a file
        return [path for path in paths if not any(other.startswith(f"{path}/") for other in paths)]

    lists = st.lists(st.sampled_from(PATHS), unique=True).map(plain)
    return st.dictionaries(st.sampled_from(NAMES).map(lambda name: (manager, name)), lists, max_size=6)


@given(brought("conda"), brought("pip"), st.randoms())
@settings(deadline=None, max_examples=500)
def test_every_path_has_one_owner(conda: dict, wheels: dict, random: object) -> None:
    packages = {**conda, **wheels}
    lost = layout.resolve(packages, lambda: NAMES)
    kept = [path for package, paths in packages.items() for path in paths if (package, path) not in lost]
    assert len(kept) == len(set(kept))
    assert not any(path in kept for each in kept for path in layout.parents(each))
    for (loser, path), winner in lost.items():
        assert any(clobber_of(path, other) for other in packages[winner]), (loser, path, winner)
    shuffled = list(conda.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert layout.resolve({**dict(shuffled), **wheels}, lambda: NAMES) == lost


def clobber_of(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/")


@given(brought("conda"))
@settings(deadline=None, max_examples=500)
def test_the_last_package_has_all_its_files(conda: dict) -> None:
    lost = layout.resolve(conda, lambda: NAMES)
    files = {path for paths in conda.values() for path in paths}
    for path in files:
        rivals = [package for package, paths in conda.items() if any(clobber_of(path, each) for each in paths)]
        last = max(rivals)
        if path in conda[last]:
            assert (last, path) not in lost


@given(brought("pip"))
@settings(deadline=None, max_examples=500)
def test_wheels_are_as_if_one_was_written_after_the_other(wheels: dict) -> None:
    written: dict[str, tuple[str, str]] = {}
    for package, paths in wheels.items():
        for path in paths:
            for gone in [each for each in written if clobber_of(each, path)]:
                if written[gone] != package:
                    del written[gone]
            written[path] = package
    lost = layout.resolve(wheels, lambda: [])
    kept = {path: package for package, paths in wheels.items() for path in paths if (package, path) not in lost}
    assert kept == written
