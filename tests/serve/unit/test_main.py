from __future__ import annotations

import json

import pytest

from serve.__main__ import main
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


@pytest.mark.parametrize("arguments", [[], ["publish"], ["publish", "x"], ["unpublish"]])
def test_wrong_usage_is_2(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "gunicorn -c python:serve.gunicorn_conf serve.wsgi:app" in shown
    assert "python -m serve publish" in shown


def test_settings_lists_every_key(capsys):
    assert main(["settings"]) == 0
    text = capsys.readouterr().out
    assert main(["settings", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["key"] for row in rows] == [field.key for field in FIELDS]
    assert all(row["variable"] in text and row["help"] in text for row in rows)
