"""Which machines and Pythons a wheel is for, and what it needs, in the words of conda."""

from __future__ import annotations

import pytest

from envtool.errors import ArchiveError
from envtool.wheels.to_conda import Target, fit_of, match_specs

GLIBC, GLIBC_28 = "__glibc >=2.17", "__glibc >=2.28"
PIN = {minor: f"python >=3.{minor},<3.{minor + 1}.0a0" for minor in range(7, 16)}


@pytest.mark.parametrize(
    ("tags", "wish", "expected"),
    [
        ("py3-none-any", (None, None), Target("noarch", None)),
        ("py2.py3-none-any", ("3.11", "linux-64"), Target("noarch", None)),
        (
            "cp39-cp39-manylinux_2_17_x86_64.manylinux2014_x86_64",
            (None, None),
            Target("linux-64", "3.9", (PIN[9], GLIBC)),
        ),
        ("cp311-cp311-manylinux_2_28_aarch64", ("3.11", None), Target("linux-aarch64", "3.11", (PIN[11], GLIBC_28))),
        (
            "cp39-cp39-manylinux2014_x86_64.manylinux_2_28_x86_64",
            (None, None),
            Target("linux-64", "3.9", (PIN[9], GLIBC)),
        ),
        ("cp38-abi3-manylinux2014_x86_64", ("3.12", None), Target("linux-64", "3.12", (PIN[12], GLIBC))),
        ("py3-none-manylinux1_x86_64", ("3.9", None), Target("linux-64", "3.9", (PIN[9], "__glibc >=2.5"))),
        ("cp310-cp310-macosx_11_0_arm64", (None, None), Target("osx-arm64", "3.10", (PIN[10], "__osx >=11.0"))),
        ("cp310-cp310-macosx_10_9_universal2", (None, "osx-64"), Target("osx-64", "3.10", (PIN[10], "__osx >=10.9"))),
    ],
)  # fmt: skip
def test_what_a_wheel_fits(tags: str, wish: tuple[str | None, str | None], expected: Target) -> None:
    assert fit_of(f"my_tool-1.0-{tags}.whl", *wish) == expected
    assert fit_of(f"my_tool-1.0-2build-{tags}.whl", *wish) == expected


@pytest.mark.parametrize(
    ("name", "wish", "said"),
    [
        ("a.zip", (None, None), "not named like a wheel"),
        ("a-1-cp39-cp39-manylinux2014_x86_64.whl", ("3.11", None), "is for Python 3.9"),
        ("a-1-cp310-abi3-manylinux2014_x86_64.whl", (None, None), "runs on several Pythons"),
        ("a-1-cp310-abi3-manylinux2014_x86_64.whl", ("3.9", None), "for Python 3.10 or newer"),
        ("a-1-cp39-cp39-linux_x86_64.whl", (None, None), "has no platform tag"),
        ("a-1-cp39-cp39-win_amd64.whl", (None, None), "has no platform tag"),
        ("a-1-cp39-cp39-macosx_10_9_universal2.whl", (None, None), "is for osx-64, osx-arm64"),
        ("a-1-cp39-cp39-manylinux2014_x86_64.whl", (None, "osx-64"), "is for linux-64"),
    ],
)
def test_what_a_wheel_does_not_fit(name: str, wish: tuple[str | None, str | None], said: str) -> None:
    with pytest.raises(ArchiveError, match=said):
        fit_of(name, *wish)


REQUIRES = (
    'tomli>=2; python_version < "3.11"',
    'colorama; sys_platform == "win32"',
    'uvloop; sys_platform == "linux" and platform_machine == "x86_64"',
    "Typing_Extensions (>=4.1,<5)",
    'pytest; extra == "test"',
    "torch!=2.0.*,~=2.1",
)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (("linux-64", "3.9"), {"tomli >=2", "uvloop", "typing-extensions <5,>=4.1", "pytorch !=2.0.*,~=2.1"}),
        (("linux-64", "3.11"), {"uvloop", "typing-extensions <5,>=4.1", "pytorch !=2.0.*,~=2.1"}),
        (("osx-arm64", "3.12"), {"typing-extensions <5,>=4.1", "pytorch !=2.0.*,~=2.1"}),
    ],
)
def test_markers_are_decided_for_the_target(target: tuple[str, str], expected: set[str]) -> None:
    assert set(match_specs(REQUIRES, Target(*target), {"torch": "pytorch"}, "x.whl")) == expected


def test_a_noarch_package_needs_what_every_target_needs() -> None:
    anywhere = ("a>=1", 'b; python_version >= "3"', 'c; extra == "x" and python_version < "3.9"', 'd; os_name == "nt"')
    assert match_specs(anywhere, Target("noarch", None), {}, "x.whl") == ("a >=1", "b")
    assert match_specs(REQUIRES[:1], Target("noarch", "3.9"), {}, "x.whl") == ("tomli >=2",)


@pytest.mark.parametrize(
    ("requires", "said"),
    [
        ('tomli; python_version < "3.11"', "a noarch package cannot express"),
        ('uvloop; sys_platform == "linux"', "a noarch package cannot express"),
        ("a @ https://example.org/a.whl", "no requirements that are URLs"),
        ("a===1.0", "cannot be expressed as a conda version: ===1.0"),
        ("a b", "is not a valid requirement"),
    ],
)
def test_what_conda_cannot_say(requires: str, said: str) -> None:
    with pytest.raises(ArchiveError, match=said):
        match_specs([requires], Target("noarch", None), {}, "x.whl")
