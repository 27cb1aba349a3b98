from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[3])
ENVIRONMENT = """\
name: demo
channels: [conda-forge]
platforms: [linux-64, osx-arm64]
dependencies:
  - python=3.9
  - flask
variables:
  MODE: fast
virtual-packages:
  linux-64:
    __glibc: "2.31"
"""


_locks: dict[str, str] = {}


@pytest.fixture
def locked(envtool, write, tmp_path: Path):
    """The command, beside an environment.yml and its lock, which is made once for all tests."""
    write(ENVIRONMENT)
    if ENVIRONMENT not in _locks:
        assert envtool("lock").returncode == 0
        _locks[ENVIRONMENT] = (tmp_path / "conda-lock.yml").read_text()
    write(_locks[ENVIRONMENT], "conda-lock.yml")
    return envtool


def test_a_new_lock_is_current(locked) -> None:
    answer = locked("lock", "--check")
    assert (answer.returncode, answer.stdout) == (0, "")


def test_no_network_no_solver_and_no_conda_lock_are_needed(locked, tmp_path: Path) -> None:
    code = (
        "import sys; from envtool.cli import cli\n"
        "try: cli.main(['lock', '--check'], standalone_mode=False)\n"
        "finally: print(sorted({'rattler', 'conda_lock', 'requests', 'uv'} & set(sys.modules)))"
    )
    # A mirror where nobody listens: asking it would fail.
    environment = {
        **os.environ,
        "PYTHONPATH": ROOT,
        "ENVTOOL_MIRRORS": "https://conda.anaconda.org/=http://127.0.0.1:9/",
    }
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )  # fmt: skip
    assert answer.stdout.strip() == "[]", answer.stderr
    assert "is current" in answer.stderr


@pytest.mark.parametrize(
    "text",
    [
        "# a comment\n" + ENVIRONMENT,
        ENVIRONMENT.replace("  - python=3.9\n  - flask\n", "  - flask\n\n  - python=3.9   # pinned\n"),
        ENVIRONMENT.replace("[linux-64, osx-arm64]", "[osx-arm64, linux-64]"),
        ENVIRONMENT.replace("name: demo", "name: other"),
        ENVIRONMENT.replace("- flask", "- Flask"),
        ENVIRONMENT.replace("[conda-forge]", "[conda-forge, nodefaults]"),
    ],
)
def test_what_changes_no_solve_leaves_a_lock_current(locked, write, text: str) -> None:
    write(text)
    answer = locked("lock", "--check")
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("- flask\n", "- flask>=3\n", "environment.yml:6: dependency changed: flask → flask>=3"),
        ("- flask\n", "- flask\n  - numpy\n", "environment.yml:7: dependency added: numpy"),
        ("  - flask\n", "", "dependency removed: flask"),
        ("- flask\n", "- flask\n  - numpy  # [osx]\n", "environment.yml:7: dependency added: numpy (osx-arm64)"),
        ("2.31", "2.28", "environment.yml:11: virtual package changed: __glibc=2.31 → __glibc=2.28 (linux-64)"),
        ("fast", "slow", "environment.yml: variable changed: MODE=fast → MODE=slow"),
        (
            "[conda-forge]",
            "[nvidia, conda-forge]",
            "environment.yml: channels changed: conda-forge → nvidia, conda-forge",
        ),
        (", osx-arm64", "", "platform removed: osx-arm64"),
        ("osx-arm64]", "osx-arm64, linux-aarch64]", "environment.yml: platform added: linux-aarch64"),
        ("- flask\n", "- flask\n  - pip:\n      - six\n", "environment.yml:8: pip dependency added: six"),
    ],
)
def test_what_changed_is_named_with_its_place(locked, write, before: str, after: str, expected: str) -> None:
    assert before in ENVIRONMENT
    write(ENVIRONMENT.replace(before, after))
    answer = locked("lock", "--check")
    assert answer.returncode == 1
    assert expected in answer.stdout.splitlines()


def test_a_package_that_a_bad_merge_took_away(locked, tmp_path: Path) -> None:
    path = tmp_path / "conda-lock.yml"
    head, *entries = path.read_text().split("\n- name: ")
    kept = [entry for entry in entries if not (entry.startswith("flask\n") and "platform: osx-arm64" in entry)]
    path.write_text("\n- name: ".join([head, *kept]))
    answer = locked("lock", "--check")
    assert answer.returncode == 1
    assert answer.stdout.strip() == "environment.yml:6: flask is not in the lock (osx-arm64)"


def test_json(locked, write) -> None:
    write(ENVIRONMENT.replace("- flask", "- flask=3"))
    answer = locked("lock", "--check", "--json")
    assert answer.returncode == 1
    found = json.loads(answer.stdout)
    assert not found["is_current"]
    assert found["changes"][0]["after"] == "flask=3"


def test_options_count_only_where_they_are_given(envtool, write) -> None:
    write(ENVIRONMENT)
    assert envtool("lock", "--strategy", "lowest-direct", "-p", "linux-64").returncode == 0
    assert envtool("lock", "--check").returncode == 0
    stale = envtool("lock", "--check", "--strategy", "highest")
    assert stale.returncode == 1
    assert "--strategy changed: lowest-direct → highest" in stale.stdout


def test_without_a_lock_there_is_a_hint(envtool, write) -> None:
    write(ENVIRONMENT)
    answer = envtool("lock", "--check")
    assert answer.returncode == 3
    assert "conda-lock.yml not found" in answer.stderr
    assert "hint: envtool lock makes it" in answer.stderr


def test_a_lock_of_conda_lock_is_compared_by_its_hash(locked, write, tmp_path: Path) -> None:
    path = tmp_path / "conda-lock.yml"
    text = path.read_text()
    start, end = text.index("  custom_metadata:"), text.index("package:\n")
    path.write_text(text[:start] + text[end:])
    assert locked("lock", "--check").returncode == 0
    write(ENVIRONMENT.replace("- flask", "- flask=3"))
    answer = locked("lock", "--check")
    assert answer.returncode == 1
    assert "content hash changed" in answer.stdout


def test_link_scripts_that_may_run_are_in_the_lock(envtool, write) -> None:
    text = "channels: [conda-forge]\ndependencies: [python=3.9, flask, numpy, pip, jinja2]\n"
    write(text)
    assert envtool("lock").returncode == 0
    write(f"{text}run-link-scripts: [Python, numpy]\n")
    stale = envtool("lock", "--check")
    assert stale.returncode == 1
    assert "run-link-scripts added: numpy, python" in stale.stdout
    assert envtool("lock").returncode == 0
    assert envtool("lock", "--check").returncode == 0
    write(f"{text}run-link-scripts: [graphviz]\n")
    answer = envtool("lock")
    assert answer.returncode == 3
    assert "run-link-scripts names graphviz, not a conda package of the lock" in answer.stderr
