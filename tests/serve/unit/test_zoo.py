"""Every kind of small architecture: trained, published and loaded, equal to a local forward pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trainer import sha256_of

pytestmark = [pytest.mark.needs_torch, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from zoo import ZOO, Served, randomised, rows_of  # noqa: E402

from serve.checkpoint.manifest import Manifest  # noqa: E402
from serve.errors import CheckpointError  # noqa: E402
from serve.model.loader import ModelLoader  # noqa: E402
from serve.publishing.publish import publish  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402
from serve.store.checkpoint_store import Stored  # noqa: E402

SUPPORT = Path(__file__).parents[1] / "support"


def trained(kind):
    """A module and its answer. Both are of this process, so nothing but the weights can differ."""
    torch.manual_seed(5)
    module = Served(kind)
    rows = rows_of(ZOO[kind][1])
    rows = (
        rows.to(next((tensor.dtype for tensor in module.parameters()), rows.dtype))
        if rows.is_floating_point()
        else rows
    )
    module.eval()(rows)  # lazy layers find their shapes
    randomised(module)
    with torch.no_grad():
        return module, module(rows)


def drifts(module):
    """Whether this torch rounds the buffers of a module anew when it answers, as 1.12 does those of InstanceNorm."""
    before = [buffer.clone() for buffer in module.buffers()]
    with torch.no_grad():
        for rows in (5, 7, 8, 16):
            module(torch.cat([torch.tensor(module.example_inputs)] * rows))
    return any(not torch.equal(one, other) for one, other in zip(before, module.buffers()))


def test_there_are_enough_of_them():
    assert len(ZOO) >= 60


@pytest.mark.parametrize("kind", ZOO)
def test_each_is_served_as_it_was_trained(tmp_path, kind):
    if kind == "weight norm, parametrized" and not hasattr(torch.nn.utils.parametrizations, "weight_norm"):
        pytest.skip("this torch has no such parametrization")
    local, right = trained(kind)
    environ = {"SERVE_MODEL": "zoo:Served", "SERVE_MODEL_ARGS": json.dumps({"kind": kind}), "SERVE_CHECKPOINTS": "ck"}
    loader = ModelLoader(load_settings({**environ, "SERVE_PYTHON_PATH": str(SUPPORT)}, tmp_path).find())
    pickled, saved = tmp_path / "m.pth", tmp_path / "m.safetensors"
    torch.save({"state_dict": {f"module.{name}": value for name, value in local.state_dict().items()}}, str(pickled))
    safetensors.torch.save_model(local, str(saved))
    for path in (pickled, saved):
        published = publish(path, tmp_path / "ck")
        stored = Stored(Path(published.checkpoint), sha256_of(Path(published.checkpoint)), published.size)
        try:
            answer = loader.load(stored, Manifest(format=published.format)).predictor.predict(local.example_inputs)
        except CheckpointError as error:
            if error.code != "stateful" or not drifts(local):
                raise
            continue
        assert torch.allclose(torch.tensor(answer, dtype=torch.float64), right.double(), rtol=1e-5, atol=1e-5), path
