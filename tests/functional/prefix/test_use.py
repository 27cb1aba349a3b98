"""Running, activating, listing and removing environments."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def test_list_and_remove(user: User, digest: str) -> None:
    user.run("create", "-p", user.home / "elsewhere")
    shown = json.loads(user.run("list", "--json").stdout)
    assert [Path(each["prefix"]).name for each in shown] == ["elsewhere", "mine"]
    assert {each["env_digest"] for each in shown} == {digest}
    user.run("remove", "-n", "mine", "--yes")
    assert [Path(each["prefix"]).name for each in json.loads(user.run("list", "--json").stdout)] == ["elsewhere"]
    assert "mine" not in (user.home / ".conda/environments.txt").read_text()
    assert "is not there" in user.run("remove", "-n", "mine", "--yes", code=3).stderr


def test_a_removal_that_was_killed_leaves_nothing_that_looks_whole(user: User, digest: str) -> None:
    prefix = user.home / "envtool/envs/mine"
    for delay_s in (0.2, 0.4, 0.6):
        process = user.start("remove", "-n", "mine", "--yes")
        time.sleep(delay_s)
        user.kill(process)
        state = [each["state"] for each in json.loads(user.run("list", "--json").stdout)]
        assert state in ([], ["incomplete"]) or (prefix / "share/old.txt").exists()
        user.run("create", "-n", "mine")
        user.run("verify", "-n", "mine")
