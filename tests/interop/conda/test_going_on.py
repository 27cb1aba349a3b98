"""A real conda changes an environment that envtool made; envtool sees what it did and makes it the lock's again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.conda.conftest import Desk, builds, history, listed

# Without pip, whose modules every create would compile.
SPECS = ("python=3.9", "tool=1.0", "data", "pure")
TOOL, LIBRARY, DATA, PURE, MORE = ((name, "1.0", "h1_0") for name in ("tool", "library", "data", "pure", "more"))


@pytest.fixture(scope="module")
def digest(desk: Desk) -> str:
    """The env digest of the lock, which lies where envtool looks for it."""
    desk.lock(*SPECS)
    return desk.create(desk.user.home / "untouched")


@pytest.fixture
def prefix(desk: Desk, digest: str) -> Path:
    """One for all tests, since each leaves it as it was."""
    prefix = desk.user.home / "worked-on"
    assert desk.create(prefix, "--repair") == digest
    return prefix


def require_the_locks(desk: Desk, prefix: Path, digest: str) -> None:
    """The environment is the lock's, for envtool and for conda."""
    assert desk.create(prefix) == digest
    desk.user.run("verify", "-p", prefix)
    assert "no packages with altered files" in desk.conda.run("doctor", "-p", prefix).stdout


def test_conda_has_nothing_to_do_for_what_is_there(desk: Desk, digest: str) -> None:
    prefix = desk.user.home / "untouched"
    for command, specs in (("install", SPECS), ("update", ("python", "pure"))):
        answer = desk.solve(command, prefix, "--dry-run", *specs)
        assert answer["message"] == "All requested packages already installed."


def test_conda_installs_a_package_and_takes_it_out_again(desk: Desk, prefix: Path) -> None:
    before = listed(desk, prefix)
    desk.solve("install", prefix, "more")
    assert listed(desk, prefix) == before | {MORE}
    # conda noted what it did and nothing else: it takes the packages for those that our history names.
    changes = [line for line in history(prefix)[-1].splitlines() if line[:1] in "+-"]
    assert changes == [f"+{desk.channel}/noarch::more-1.0-h1_0"]
    desk.conda.run("remove", "-p", prefix, "--offline", "more")
    assert listed(desk, prefix) == before
    desk.user.run("verify", "-p", prefix)


def test_what_conda_installed_goes_with_the_next_create(desk: Desk, prefix: Path, digest: str) -> None:
    desk.solve("install", prefix, "more")
    assert "extra more 1.0" in desk.findings(prefix)
    require_the_locks(desk, prefix, digest)
    assert history(prefix)[-1].splitlines()[1] == f"-{desk.channel}/noarch::more-1.0-h1_0"


def test_conda_keeps_what_was_asked_for(desk: Desk, prefix: Path, digest: str) -> None:
    before = listed(desk, prefix)
    desk.conda.run("remove", "-p", prefix, "--offline", "tool")
    # Nothing else needs library or data, but only data was asked for.
    assert before - listed(desk, prefix) == {TOOL, LIBRARY}
    found = desk.findings(prefix)
    assert {"missing tool 1.0", "missing library 1.0", "missing bin/tool", "missing lib/libx.so"} <= set(found)
    require_the_locks(desk, prefix, digest)


def test_what_conda_updated_is_the_locks_again(desk: Desk, prefix: Path, digest: str) -> None:
    answer = desk.solve("install", prefix, "--dry-run", "more")
    assert [each["name"] for each in answer["actions"]["LINK"]] == ["more"]  # tool=1.0 was asked for, and stays
    desk.solve("install", prefix, "tool=2.0")
    assert ("tool", "2.0", "h1_0") in listed(desk, prefix)
    assert desk.findings(prefix) == ["mismatched bin/tool", "mismatched tool 1.0"]
    require_the_locks(desk, prefix, digest)


def test_a_package_that_conda_linked_anew(desk: Desk, prefix: Path, digest: str) -> None:
    # The same archive, but conda writes another script for an entry point and other byte-code.
    desk.conda.run("remove", "-p", prefix, "--offline", "pure")
    desk.solve("install", prefix, "pure")
    assert [finding for finding in desk.findings(prefix) if ".pyc" not in finding] == ["mismatched bin/pure"]
    assert desk.create(prefix, "--repair") == digest
    desk.user.run("verify", "-p", prefix)


def test_a_package_that_conda_removed_and_another_lock(desk: Desk, prefix: Path) -> None:
    desk.conda.run("remove", "-p", prefix, "--offline", "pure")
    try:
        packages = desk.lock("python=3.9", "tool=2.0", "data", "pure")
        desk.create(prefix)
        desk.user.run("verify", "-p", prefix)
        assert listed(desk, prefix) == builds(packages)
    finally:
        desk.lock(*SPECS)


def test_what_conda_and_somebody_else_changed_is_mended_at_once(desk: Desk, prefix: Path, digest: str) -> None:
    desk.conda.run("remove", "-p", prefix, "--offline", "pure")
    desk.solve("install", prefix, "more")
    (prefix / "share/data").write_text("other")
    (prefix / "share/extra").write_text("other")
    assert desk.create(prefix, "--repair") == digest
    require_the_locks(desk, prefix, digest)
