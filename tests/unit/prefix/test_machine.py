from __future__ import annotations

import pytest

from envtool.install.preconditions import Lack, find_lacks
from envtool.lockfile.conda_lock_v1 import LockedPackage

MACHINE = {"__glibc": "2.31 0", "__linux": "5.10.0 0", "__cuda": "11.8 0", "__archspec": "1 haswell", "__unix": "0 0"}


def needing(**dependencies: str) -> LockedPackage:
    needs = {f"__{name}": constraint for name, constraint in dependencies.items()}
    return LockedPackage("conda", "tool", "1.0", "linux-64", "https://c.example/t.conda", "0" * 64, dependencies=needs)


@pytest.mark.parametrize(
    "needs",
    [
        {"glibc": ">=2.17,<3.0.a0"},
        {"glibc": ">=2.31"},
        {"cuda": ""},
        {"cuda": ">=11.8"},
        {"cuda": "11.*"},
        {"unix": ""},
        {"archspec": "1.* x86_64"},
        {"linux": ">=4.0 *"},
    ],
)
def test_what_is_there_is_enough(needs: dict[str, str]) -> None:
    assert find_lacks([needing(**needs)], MACHINE) == []


@pytest.mark.parametrize(
    ("needs", "found"),
    [
        ({"glibc": ">=2.32"}, "2.31"),
        ({"cuda": ">=12"}, "11.8"),
        ({"osx": ">=11.0"}, None),
    ],
)
def test_what_is_lacking_is_named(needs: dict[str, str], found: str | None) -> None:
    ((name, constraint),) = needs.items()
    assert find_lacks([needing(**needs)], MACHINE) == [Lack(f"__{name}", constraint, "tool", found)]


def test_each_lack_is_told_once() -> None:
    assert len(find_lacks([needing(cuda=">=12"), needing(cuda=">=12"), needing(cuda=">=12.4")], MACHINE)) == 2


def test_ordinary_dependencies_are_not_looked_at() -> None:
    package = LockedPackage(
        "conda", "t", "1", "linux-64", "https://c.example/t", "0" * 64, dependencies={"zlib": ">=9"}
    )
    assert find_lacks([package], MACHINE) == []
