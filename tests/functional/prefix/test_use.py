"""Running, activating, listing and removing environments."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envtool.prefix.activate import activation_script, quoted
from tests.functional.prefix.conftest import Channel, User
from tests.support.archives import Archive, File, locked


@pytest.fixture
def digest(user: User, channel: Channel, tmp_path: Path) -> str:
    scripts = {
        "etc/conda/activate.d/x.sh": File(b"export FROM_SCRIPT=yes\n"),
        "etc/conda/activate.d/x.fish": File(b"set -gx FROM_SCRIPT yes\n"),
        "etc/conda/deactivate.d/x.sh": File(b"unset FROM_SCRIPT\n"),
        "etc/conda/deactivate.d/x.fish": File(b"set -e FROM_SCRIPT\n"),
    }
    package = locked(Archive("scripts", scripts).write(tmp_path))
    user.write_lock(channel.old, package, envtool_variables=json.dumps({"ANSWER": "42"}))
    return json.loads(user.run("create", "-n", "mine", "--json").stdout)["env_digest"]


def test_run_is_in_the_activated_environment(user: User, digest: str) -> None:
    script = 'old; echo "$ANSWER $FROM_SCRIPT $ENVSERVE_ENV_DIGEST"'
    assert user.run("run", "-n", "mine", "--", "sh", "-c", script).stdout.split() == ["old", "42", "yes", digest]


def test_run_gives_arguments_and_the_exit_status_unchanged(user: User, digest: str) -> None:
    argv = ["run", "-n", "mine", "--", "sh", "-c", 'printf "<%s>" "$@"; exit 7', "sh", "a b", "$HOME", "--help", "'"]
    assert user.run(*argv, code=7).stdout == "<a b><$HOME><--help><'>"


def test_signals_reach_the_program(user: User, digest: str) -> None:
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    process = user.start("run", "-n", "mine", "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 9


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_activates_and_deactivates(user: User, digest: str, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = user.home / "bin" / "envtool"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m envtool "$@"\n')
    program.chmod(0o755)
    load = "envtool shell-hook fish | source" if shell == "fish" else f'eval "$(envtool shell-hook {shell})"'
    script = f"{load}\nenvtool activate mine\nold\necho $ANSWER $FROM_SCRIPT $ENVSERVE_ENV_DIGEST\nenvtool deactivate\n"
    script += 'echo "[$ENVSERVE_ENV_DIGEST$FROM_SCRIPT]"\ncommand -v old; true\n'
    env = {**user.env, "PATH": f"{program.parent}:{user.env['PATH']}"}
    done = subprocess.run([shell, "-c", script], env=env, cwd=user.home, capture_output=True, text=True)
    assert done.stdout.split() == ["old", "42", "yes", digest, "[]"], done.stderr


LITERALS = [
    "a$HOME`id -un`$(id)${X}",
    "it's \"quoted\" \\\\ and \\'",
    "'",
    "''",
    "line\nline\n\ttab ",
    "\u5bc6\u7801 \U0001f600 \xe9",
    "*?[a]{b,c}~!! #;&|<>",
    "",
    " ",
    "%PATH% $Env:PATH",
    "\x01\x1b[31m\x7f\r",
]


@pytest.fixture(scope="module")
def literal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix whose variables hold what a shell might evaluate."""
    prefix = tmp_path_factory.mktemp("it's a $HOME") / "prefix"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "etc/conda/env_vars.d").mkdir(parents=True)
    values = {f"V{position}": value for position, value in enumerate(LITERALS)}
    (prefix / "etc/conda/env_vars.d/package.json").write_text(json.dumps({**values, "lower_case": "x", "H=I; id": "x"}))
    (prefix / "conda-meta/state").write_text(json.dumps({"env_vars": {"V0": LITERALS[0]}}))
    return prefix


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_variables_arrive_as_they_are_written(literal: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    show = f"{shlex.quote(sys.executable)} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    done = subprocess.run(
        [shell, "-c", f"{activation_script(literal, shell)}\n{show}"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert [found[f"V{position}"] for position in range(len(LITERALS))] == LITERALS
    assert (found["lower_case"], found["LOWER_CASE"]) == ("x", "x")
    assert found["CONDA_PREFIX"] == str(literal)
    assert found["PATH"].split(":")[0] == str(literal / "bin")
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_any_text_is_a_literal(shell: str, text: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    shown = subprocess.run([shell, "-c", f"printf '%s' {quoted(text, shell)}"], capture_output=True, check=True)
    assert shown.stdout == text.encode()


@pytest.mark.parametrize("name", ["X; ls; Y", "H=I", "1A", "A B", "a-b", ""])
def test_a_name_that_is_none_is_refused_in_a_lock(user: User, channel: Channel, name: str) -> None:
    user.write_lock(channel.old, envtool_variables=json.dumps({name: "x"}))
    assert "letters, digits and _" in user.run("create", "-n", "named", code=3).stderr


def test_list_and_remove(user: User, digest: str) -> None:
    user.run("create", "-p", user.home / "elsewhere")
    shown = json.loads(user.run("list", "--json").stdout)
    assert [Path(each["prefix"]).name for each in shown] == ["elsewhere", "mine"]
    assert {each["env_digest"] for each in shown} == {digest}
    user.run("remove", "-n", "mine", "--yes")
    assert [Path(environment["prefix"]).name for environment in json.loads(user.run("list", "--json").stdout)] == [
        "elsewhere"
    ]
    assert "mine" not in (user.home / ".conda/environments.txt").read_text()
    assert "not found" in user.run("remove", "-n", "mine", "--yes", code=3).stderr


def test_a_removal_that_was_killed_leaves_nothing_that_looks_whole(user: User, digest: str) -> None:
    prefix = user.home / "envtool/envs/mine"
    for delay_s in (0.2, 0.4, 0.6):
        process = user.start("remove", "-n", "mine", "--yes")
        time.sleep(delay_s)
        user.kill(process)
        state = [entry["state"] for entry in json.loads(user.run("list", "--json").stdout)]
        assert state in ([], ["incomplete"]) or (prefix / "share/old.txt").exists()
        user.run("create", "-n", "mine")
        user.run("verify", "-n", "mine")
