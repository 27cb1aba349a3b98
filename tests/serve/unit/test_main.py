from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from serve.__main__ import main
from serve.cli import COMMANDS
from serve.settings.settings import FIELDS


def test_publish_says_what_it_did(trainer, capsys):
    path = trainer.train(1)
    assert main(["publish", str(path), "--to", str(trainer.directory), "--version", "7"]) == 0
    out = capsys.readouterr().out
    assert "version 7" in out
    assert main(["publish", str(path), "--to", str(trainer.directory), "--name", "n.pth", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["checkpoint"] == str(trainer.directory / "n.pth")
    assert shown["sha256"] in out


def test_a_known_error_is_3_with_a_hint_and_nothing_on_stdout(tmp_path, capsys):
    assert main(["publish", str(tmp_path / "nothing"), "--to", str(tmp_path)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "\nhint: " in captured.err


@pytest.mark.parametrize("arguments", [[], ["publish"], ["publish", "x"], ["unpublish"], ["status", "--jsn"]])
def test_wrong_usage_is_2_with_a_hint_and_nothing_on_stdout(arguments, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "\nhint: " in captured.err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistyped_command_gets_the_nearest_one(name, capsys):
    at = next(at for at in range(len(name) - 2, -1, -1) if name[at] != name[at + 1])
    swapped = name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    assert main([swapped]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: unknown command {swapped!r}"
    assert hint.startswith("hint: did you mean: ")
    assert hint.endswith(f" {name}")


def test_help_teaches(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "gunicorn -c python:serve.gunicorn_conf serve.wsgi:app" in shown
    assert "python -m serve publish" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_short_summary_and_an_example(name, capsys):
    summary = COMMANDS[name][1]
    assert len(summary) <= 60
    assert main([name, "--help"]) == 0
    assert f"\n    python -m serve {name}" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert f"  {summary}\n" in capsys.readouterr().out


def test_help_imports_no_command():
    code = "import sys, serve.__main__ as m; m.main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True, check=True)
    assert not set(done.stderr.split()) & {*(module for module, _ in COMMANDS.values()), "serve.settings", "numpy"}


@pytest.mark.parametrize(("line", "expected"), [("serve ro", "rollback"), ("serve status --wa", "--watch")])
def test_a_shell_completes(line, expected):
    environ = {"_SERVE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    script = "import sys; sys.argv[0] = 'bin/serve'; from serve.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env={**os.environ, **environ}, stdout=-1, text=True, check=True)
    assert done.stdout == f"plain,{expected}\n"


def test_settings_lists_every_key(capsys):
    assert main(["settings"]) == 0
    text = capsys.readouterr().out
    assert main(["settings", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["key"] for row in rows] == [field.key for field in FIELDS]
    assert all(row["variable"] in text and row["help"] in text for row in rows)
