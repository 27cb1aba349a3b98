"""Weights as trainers really write them, behind a real server."""

from __future__ import annotations

import pytest
from pickles import needs_safe_pickles
from trainer import sha256_of

from serve.publishing.publish import Extras, publish

pytestmark = [pytest.mark.needs_torch, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from zoo import Served, randomised  # noqa: E402


def bundled(module, path):
    state = {f"model._orig_mod.{name}": value for name, value in module.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state, "optimizer_states": [{}]}, str(path))
    return path


def left_out(module, path):
    safetensors.torch.save_model(module, str(path), metadata={"format": "pt"})
    return path


@needs_safe_pickles
@pytest.mark.both_workers
def test_bundles_prefixes_and_tied_weights(start_server, trainer):
    server = start_server(model="zoo:Served", model_args='{"kind": "tied model"}')
    for generation, (write, name, extras) in enumerate(
        [
            (bundled, "1.ckpt", Extras(convert=True)),
            (left_out, "2.safetensors", Extras()),
            (bundled, "3.ckpt", Extras(convert=False)),
        ],
        1,
    ):
        torch.manual_seed(generation)
        local = randomised(Served("tied model"))
        path = write(local, trainer.work / name)
        published = publish(path, trainer.directory, extras=extras)
        server.wait_live(generation)
        reply = server.client().predict(local.example_inputs)
        assert reply.sha256 == published.sha256
        with torch.no_grad():
            right = local(torch.tensor(local.example_inputs))
        assert torch.allclose(torch.tensor(reply.json["outputs"]), right, rtol=1e-5, atol=1e-5), name
        if name == "2.safetensors":
            assert published.sha256 == sha256_of(path)
    said = [event["took_off"] for event in server.events("unwrapped")]
    assert ["model._orig_mod."] in said
    assert ["state_dict", "model._orig_mod."] in said
