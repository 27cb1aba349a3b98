from __future__ import annotations

from dataclasses import replace

import pytest

from serve.checkpoint.formats import SAFETENSORS, TORCH, TORCHSCRIPT
from serve.errors import CheckpointError
from serve.model import loader
from serve.settings.settings import load_settings

SHA256 = "ab" * 32


@pytest.fixture
def settings(tmp_path):
    return load_settings({"SERVE_MODEL": "m:M", "SERVE_CHECKPOINTS": "ck"}, tmp_path).find()


def refused(code, function, *arguments):
    with pytest.raises(CheckpointError) as caught:
        function(*arguments)
    assert caught.value.code == code
    assert caught.value.hint


@pytest.mark.parametrize(
    ("pickle", "is_allowed", "is_signed", "is_full"),
    [
        ("weights_only", False, False, False),
        ("weights_only", True, False, True),
        ("weights_only", False, True, False),
        ("trusted", False, False, False),
        ("trusted", True, False, True),
        ("trusted", False, True, True),
    ],
)
def test_what_is_unpickled_in_full(settings, pickle, is_allowed, is_signed, is_full):
    allowed = frozenset({SHA256} if is_allowed else ())
    settings = replace(settings, pickle=pickle, allowed_pickles=allowed)
    assert loader.decide_pickle(settings, TORCH, SHA256, is_signed) is is_full
    assert not loader.decide_pickle(settings, SAFETENSORS, SHA256, is_signed)


def test_refuse_refuses_even_what_is_allowed(settings):
    settings = replace(settings, pickle="refuse", allowed_pickles=frozenset({SHA256}))
    refused("pickle", loader.decide_pickle, settings, TORCH, SHA256, True)
    for format in (SAFETENSORS, TORCHSCRIPT):
        assert not loader.decide_pickle(settings, format, SHA256, True)


def test_the_warning_is_one_line_and_only_where_it_is_due(settings, monkeypatch):
    said = []

    def say(event, **facts):
        said.append((event, facts["reason"]))

    monkeypatch.setattr(loader, "torch_version", lambda: "2.5")
    settings = replace(settings, model="collections:Counter")
    for policy, weaknesses in (("weights_only", ()), ("refuse", ("CVE",)), ("trusted", ("CVE-1", "CVE-2"))):
        monkeypatch.setattr(loader, "weaknesses", lambda version, found=weaknesses: found)
        loader.ModelLoader(replace(settings, pickle=policy), say=say)
    assert said == [("warning", "weights_only is not a security boundary in torch 2.5: CVE-1, CVE-2")]
