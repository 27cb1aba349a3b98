from __future__ import annotations

from dataclasses import replace

from envtool.install.request import Plan, RepairPlan, as_conda_left_it, installed, plan
from envtool.lockfile.conda_lock_v1 import LockedPackage
from envtool.prefix.conda_meta import CondaPackage
from envtool.prefix.prefix import Receipt


def package(name: str, version: str = "1.0", manager: str = "conda") -> LockedPackage:
    digits = f"{hash((name, version)) & 0xFFFF:04x}" * 16
    return LockedPackage(manager, name, version, "linux-64", f"https://c.example/{name}-{version}.conda", digits)


PYTHON, TOOL, WHEEL = package("python"), package("tool"), package("flask", manager="pip")
WANTED = (PYTHON, TOOL, WHEEL)


def receipt(*packages: LockedPackage) -> Receipt:
    return Receipt("linux-64", ("main",), tuple(installed(each) for each in packages), "digest", {})


def conda_record(name: str, sha256: str | None) -> CondaPackage:
    return CondaPackage(name, "1.0", sha256 or "", f"c/linux-64::{name}-1.0-0", (), ())


def test_nothing_there_is_made_from_nothing() -> None:
    assert plan(WANTED, None) == Plan(WANTED, starts_over=True)


def test_all_there_is_nothing_to_do() -> None:
    assert plan(WANTED, receipt(*WANTED)).is_empty
    assert plan(WANTED, receipt(*reversed(WANTED))).is_empty


def test_what_is_missing_is_installed_and_what_is_extra_removed() -> None:
    old = package("old")
    todo = plan(WANTED, receipt(PYTHON, old, WHEEL))
    assert todo == Plan((TOOL,), (installed(old),))
    assert todo.installs("conda") == (TOOL,)
    assert todo.installs("pip") == ()
    assert todo.removes("conda") == (installed(old),)


def test_another_build_of_the_same_version_is_another_package() -> None:
    rebuilt = replace(TOOL, sha256="f" * 64)
    assert plan((PYTHON, rebuilt, WHEEL), receipt(*WANTED)) == Plan((rebuilt,), (installed(TOOL),))


def test_a_name_may_be_there_twice_with_two_managers() -> None:
    twin = package("tool", manager="pip")
    assert plan((*WANTED, twin), receipt(*WANTED)) == Plan((twin,))


def test_another_python_makes_everything_anew() -> None:
    newer = package("python", "3.9.20")
    todo = plan((newer, TOOL, WHEEL), receipt(*WANTED))
    assert todo.starts_over
    assert todo.install == (newer, TOOL, WHEEL)


def test_damaged_packages_are_installed_again() -> None:
    todo = plan(WANTED, receipt(*WANTED), RepairPlan({("pip", "flask")}, ("lib/extra",)))
    assert todo == Plan((WHEEL,), delete=("lib/extra",))


def test_a_damaged_python_is_not_trusted_to_compile() -> None:
    assert plan(WANTED, receipt(*WANTED), RepairPlan({("conda", "python")})).starts_over


def test_damaged_byte_code_is_compiled_again() -> None:
    todo = plan(WANTED, receipt(*WANTED), RepairPlan(is_byte_code=True))
    assert todo == Plan((), recompiles=True)
    assert not todo.is_empty


def test_a_damaged_script_has_everything_made_anew() -> None:
    assert plan(WANTED, receipt(*WANTED), RepairPlan(is_generated=True)) == Plan(WANTED, starts_over=True)


def test_what_conda_did_is_known() -> None:
    there = (conda_record("python", PYTHON.sha256), conda_record("tool", "f" * 64), conda_record("more", "e" * 64))
    left = as_conda_left_it(receipt(*WANTED), there)
    todo = plan(WANTED, left)
    assert todo.install == (TOOL,)
    assert [each.name for each in todo.remove] == ["more", "tool"]
    assert as_conda_left_it(receipt(WHEEL, TOOL), ()).packages == (installed(WHEEL),)
