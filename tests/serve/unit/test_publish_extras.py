"""Conversion, golden requests, metrics and signatures, on the trainer's side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import safetensors.numpy
from trainer import ROW, sha256_of

from serve.__main__ import main
from serve.checkpoint.manifest import parse_marker
from serve.errors import PublishError, SignatureError
from serve.publishing.publish import Extras, publish

pytestmark = pytest.mark.needs_torch
torch = pytest.importorskip("torch")


def manifest_of(published):
    return parse_marker(Path(published.checkpoint + ".done").read_bytes())


@pytest.fixture
def pth(trainer):
    """Tied weights, a view, and one that is not contiguous, as training scripts save them."""
    weight = torch.arange(8, dtype=torch.float32).reshape(2, 4)
    path = trainer.work / "model.pth"
    torch.save({"state_dict": {"w": weight, "tied": weight, "row": weight[1], "t": weight.t()}, "epoch": 3}, str(path))
    return path


def test_a_state_dict_becomes_safetensors(trainer, pth):
    published = publish(pth, trainer.directory, extras=Extras(convert=True))
    assert published.checkpoint.endswith("model.safetensors")
    assert published.format == "safetensors"
    found = safetensors.numpy.load_file(published.checkpoint)
    assert found["w"].tolist() == found["tied"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert found["row"].tolist() == [4, 5, 6, 7]
    assert found["t"].tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_conversion_is_the_default_where_it_is_safe(trainer, pth):
    assert publish(pth, trainer.directory).format == "safetensors"
    assert publish(pth, trainer.directory, extras=Extras(convert=False)).format == "torch"


def test_what_holds_no_state_dict_is_not_published(trainer):
    path = trainer.work / "list.pth"
    torch.save([1, 2], str(path))
    with pytest.raises(PublishError, match="expected a state dict"):
        publish(path, trainer.directory, extras=Extras(convert=True))
    assert list(trainer.directory.iterdir()) == []


def test_golden_answers_are_computed_or_given(trainer, monkeypatch, tmp_path):
    from serving import SUPPORT

    monkeypatch.setenv("SERVE_MODEL", "affine:Affine")
    monkeypatch.setenv("SERVE_CHECKPOINTS", "ck")
    monkeypatch.setenv("SERVE_PYTHON_PATH", str(SUPPORT))
    path = trainer.train(1)
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps([{"inputs": [ROW]}, {"inputs": [ROW], "outputs": [[1, 2]], "atol": 0.5}]))
    computed, given = manifest_of(publish(path, trainer.directory, extras=Extras(golden=golden))).golden
    assert computed.outputs == [trainer.expected(sha256_of(path))]
    assert (given.outputs, given.atol) == ([[1, 2]], 0.5)


def test_shards_are_joined_for_the_answers_to_recorded_requests(trainer, monkeypatch, tmp_path):
    from serving import SUPPORT

    for key, value in {"MODEL": "affine:Affine", "CHECKPOINTS": "ck", "PYTHON_PATH": str(SUPPORT)}.items():
        monkeypatch.setenv(f"SERVE_{key}", value)
    monkeypatch.setenv("SERVE_STORE", str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "recorded.jsonl").write_text(json.dumps({"inputs": [ROW], "outputs": [[1, 2]]}) + "\n")
    shard = trainer.train(1)
    index = shard.with_name("m.safetensors.index.json")
    names = safetensors.numpy.load_file(str(shard))
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, shard.name)}))
    (golden,) = manifest_of(publish(index, trainer.directory, extras=Extras(golden_from="recorded"))).golden
    assert golden.outputs == [trainer.expected(sha256_of(shard))]


@pytest.mark.parametrize("command", [[], ["--golden", "golden.json"]])
def test_what_the_model_class_would_not_take_is_not_published(trainer, monkeypatch, tmp_path, capsys, command):
    from serving import SUPPORT

    (tmp_path / "golden.json").write_text(json.dumps([{"inputs": [ROW], "outputs": [[1, 2]]}]))
    (tmp_path / "serve.toml").write_text(f'model = "affine:Affine"\ncheckpoints = "ck"\npython_path = ["{SUPPORT}"]\n')
    monkeypatch.chdir(tmp_path)
    weights = {"layer.weight": numpy.ones((2, 4), "float32"), "layer.bias": numpy.ones(2, "float32")}
    two = {f"{name}.{key}": value for name in ("ema", "online") for key, value in weights.items()}
    for state, says in (
        (two, '--strip-prefix "ema."'),
        ({"other": weights["layer.bias"]}, "layer.bias: expected F32[2]"),
    ):
        path = trainer.write("bad.safetensors", state)
        assert main(["publish", str(path), "--to", str(trainer.directory), "--check", *command]) == 3
        assert says in capsys.readouterr().err
    assert list(trainer.directory.iterdir()) == []
    wrapped = trainer.write("good.safetensors", {f"model.{key}": value for key, value in weights.items()})
    assert main(["publish", str(wrapped), "--to", str(trainer.directory), "--check", *command]) == 0
    assert len(list(trainer.directory.iterdir())) == 2


@pytest.mark.parametrize("text", ["", "5", '[{"outputs": 1}]', '[{"inputs": 1, "outputs": 1, "rtol": -1}]'])
def test_golden_files_of_another_form(trainer, tmp_path, text):
    golden = tmp_path / "golden.json"
    golden.write_text(text)
    with pytest.raises(PublishError, match=r"golden\.json"):
        publish(trainer.train(1), trainer.directory, extras=Extras(golden=golden))
    assert list(trainer.directory.iterdir()) == []


def test_the_command_signs_and_states_metrics(trainer, tmp_path, capsys):
    pytest.importorskip("cryptography", reason="the extra [sign] is not installed")
    from serve.checkpoint.signature import Verifier

    key = tmp_path / "trainer.key"
    assert main(["keygen", str(key), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    options = ["--sign", str(key), "--metric", "f1=0.5", "--metric", "loss=2", "--generation", "7", "--json"]
    assert main(["publish", str(trainer.train(1)), "--to", str(trainer.directory), *options]) == 0
    marker = json.loads((trainer.directory / "model.safetensors.done").read_bytes())
    assert (marker["metrics"], marker["generation"]) == ({"f1": 0.5, "loss": 2.0}, 7)
    assert marker["signature"]["key"] == made["key"]
    Verifier([key.with_name("trainer.key.pub")]).require(marker)
    assert main(["keygen", str(key)]) == 3


@pytest.mark.parametrize("text", ["f1", "f1=", "=1", "f1=high", "f1=nan", "f1=inf"])
def test_metrics_are_numbers(text):
    assert main(["publish", "x", "--to", "y", "--metric", text]) == 2


def test_a_key_that_cannot_be_used_changes_nothing(trainer, tmp_path):
    pytest.importorskip("cryptography", reason="the extra [sign] is not installed")
    before = publish(trainer.train(1), trainer.directory)
    with pytest.raises(SignatureError):
        publish(trainer.train(2), trainer.directory, extras=Extras(key=tmp_path / "nowhere"))
    assert manifest_of(before).sha256 == before.sha256
    assert len(list(trainer.directory.iterdir())) == 2
