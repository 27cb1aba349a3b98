"""Weights in memory compared with their checkpoint, whatever form it has; and all ways to read one agree on it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from trainer import sha256_of

pytestmark = pytest.mark.needs_torch
torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from torch import nn  # noqa: E402

from serve.checkpoint.manifest import Manifest, Stored  # noqa: E402
from serve.errors import CheckpointError  # noqa: E402
from serve.model import tensors  # noqa: E402
from serve.model.loader import ModelLoader  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402


class Plain(nn.Module):
    example_inputs = ([0.0, 1.0, 2.0, 3.0],)

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, rows):
        return self.two(self.one(rows))


class Tied(Plain):
    def __init__(self):
        super().__init__()
        self.two.weight = self.one.weight


class Odd(Plain):
    """With buffers that are sparse, complex, conjugated and of eight bits, and with extra state."""

    def __init__(self):
        super().__init__()
        self.register_buffer("coo", torch.eye(4).to_sparse())
        self.register_buffer("csr", torch.eye(4).to_sparse_csr())
        self.register_buffer("conjugated", torch.tensor([1 + 2j]).conj())
        self.register_buffer("quantized", torch.quantize_per_tensor(torch.ones(3), 0.5, 0, torch.qint8))
        if hasattr(torch, "float8_e5m2"):
            self.register_buffer("eight", torch.ones(2).to(torch.float8_e5m2))

    def get_extra_state(self):
        return {"step": 3, "mean": torch.ones(2)}

    def set_extra_state(self, state):
        pass


def renamed(state):
    return {f"module._orig_mod.{name}": tensor.clone() for name, tensor in state.items()}


def one_name(state):
    return {name: tensor.clone() for name, tensor in state.items() if name != "two.weight"}


def untied(state):
    return {name: tensor.clone() for name, tensor in state.items()}


# The class, what its state dict becomes in the file, and whether safetensors can hold it.
CASES = {
    "plain": (Plain, untied, True),
    "wrapped": (Plain, renamed, True),
    "bundle": (Plain, lambda state: {"epoch": 3, "model": renamed(state), "optimizer": {"state": {}}}, False),
    "tied": (Tied, untied, True),
    "tied, one name": (Tied, one_name, True),
    "tied, one name, wrapped": (Tied, lambda state: renamed(one_name(state)), True),
    "tied, in a bundle": (Tied, lambda state: {"state_dict": one_name(state), "epoch": 1}, False),
    "odd": (Odd, lambda state: state, False),
}


@pytest.mark.parametrize("optimize", ["off", "script"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_every_tensor_is_compared(tmp_path, monkeypatch, case, optimize):
    kind, change, is_safe = CASES[case]
    environ = {"SERVE_MODEL": "torch.nn:Linear", "SERVE_CHECKPOINTS": "ck", "SERVE_OPTIMIZE": optimize}
    if kind is Odd and (optimize == "script" or not tensors.can_assign()):
        pytest.skip("its buffers can neither be scripted nor copied into")
    monkeypatch.setattr("serve.model.trial._LEAST_GAIN", 0.0)  # whatever the machine's load
    content = change(kind().state_dict())
    files = [tmp_path / "m.pth"]
    torch.save(content, str(files[0]))
    environ["SERVE_ALLOWED_PICKLES"] = sha256_of(files[0])  # for a torch without weights_only
    if is_safe:
        files.append(tmp_path / "m.safetensors")
        safetensors.torch.save_file(content, str(files[1]))
        index = {"weight_map": dict.fromkeys(content, files[1].name)}
        (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
    loader = ModelLoader(load_settings(environ, tmp_path).find())
    monkeypatch.setattr(loader, "_class", kind)
    for file in files:
        predictor = loader.load(Stored(file, sha256_of(file), file.stat().st_size), Manifest()).predictor
        assert isinstance(predictor.module, torch.jit.ScriptModule) == (optimize == "script")
        assert loader.compare(predictor) == (len(kind().state_dict()), [])
        if optimize == "off" and hasattr(torch, "compile"):  # which puts a prefix before all names of the module
            compiled = replace(predictor, module=torch.compile(predictor.module))
            assert loader.compare(compiled) == (len(kind().state_dict()), [])
        with torch.no_grad():
            predictor.module.one.weight[0, 0] += 1
        tied = ["two.weight"] if kind is Tied else []
        assert loader.compare(predictor) == (len(kind().state_dict()), ["one.weight", *tied])
    for path in tmp_path.glob("m.*"):
        loader.preview(path, Manifest())


def test_every_way_refuses_the_same_file(tmp_path, monkeypatch):
    environ = {"SERVE_MODEL": "torch.nn:Linear", "SERVE_CHECKPOINTS": "ck", "SERVE_FORMAT": "safetensors"}
    loader = ModelLoader(load_settings(environ, tmp_path).find())
    monkeypatch.setattr(loader, "_class", Tied)
    path, index = tmp_path / "m.safetensors", tmp_path / "m.safetensors.index.json"
    state = renamed(Tied().state_dict())
    del state["module._orig_mod.one.bias"]
    safetensors.torch.save_file(state, str(path))
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, path.name)}))

    def message(act):
        with pytest.raises(CheckpointError) as caught:
            act()
        assert caught.value.code == "architecture"
        return caught.value.message

    stored = Stored(path, sha256_of(path), path.stat().st_size)
    first, second = (message(lambda: loader.load(stored, Manifest())) for _ in range(2))
    previews = {message(lambda path=path: loader.preview(path, Manifest())) for path in (path, index)}
    assert {first, second} == previews
