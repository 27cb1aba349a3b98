"""A quicker form of a module is served only where it answers the same and is quicker."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.needs_torch
torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from trainer import sha256_of  # noqa: E402

from serve.checkpoint.manifest import Manifest, Stored  # noqa: E402
from serve.model import contract  # noqa: E402
from serve.model.loader import ModelLoader  # noqa: E402
from serve.model.trial import optimize  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402


class Steps(torch.nn.Module):
    """Many small steps: the interpreter is what costs."""

    example_inputs = ([1.0, 2.0],)  # without an annotation: TorchScript of torch 1.12 stumbles over one that is a text

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, rows):
        for step in range(300):
            if step % 3 == 0:
                rows = rows + 1.0
            elif step % 3 == 1:
                rows = rows - 1.0
        return rows * self.scale


class Otherwise(Steps):
    """Answers otherwise as TorchScript."""

    def forward(self, rows):
        for _ in range(300):
            rows = rows + 1.0
        return rows + 1.0 if torch.jit.is_scripting() else rows


class Slower(Steps):
    """Takes longer as TorchScript."""

    def forward(self, rows):
        if torch.jit.is_scripting():
            for _ in range(2000):
                rows = (rows + 1.0) - 1.0
        return rows * self.scale


class Unscriptable(Steps):
    """What TorchScript has nothing for."""

    def forward(self, rows):
        return rows * max((parameter for parameter in self.parameters()), key=lambda each: each.sum())


def prepare(tmp_path, model):
    environ = {"SERVE_MODEL": f"m:{model.__name__}", "SERVE_CHECKPOINTS": "ck"}
    settings = load_settings(environ, tmp_path).find()
    module = model().eval()
    return contract.connect(settings, module, module), module.example_inputs


def test_a_quicker_form_is_taken_and_shares_the_weights(tmp_path):
    predictor, example = prepare(tmp_path, Steps)
    verdict = optimize(predictor, example, "script", (1, 2), 60)
    assert (verdict.reason, verdict.gain > 1.03) == ("", True)
    assert isinstance(verdict.predictor.module, torch.jit.ScriptModule)
    assert verdict.predictor.predict([[1.0, 2.0], [3.0, 4.0]]) == [[2.0, 6.0], [6.0, 12.0]]
    with torch.no_grad():
        predictor.module.scale.fill_(1.0)
    assert verdict.predictor.predict([[1.0, 2.0]]) == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Otherwise, "it answers differently: outputs[0][0]: expected 301"),
        (Slower, "it is not faster: 0."),
        (Unscriptable, ""),
    ],
)
def test_the_module_itself_is_served_where_the_other_form_is_no_better(tmp_path, model, reason):
    predictor, example = prepare(tmp_path, model)
    verdict = optimize(predictor, example, "script", (1,), 60)
    assert verdict.predictor is predictor
    assert verdict.reason.startswith(reason)
    assert verdict.reason


def test_what_takes_too_long_is_given_up(tmp_path):
    predictor, example = prepare(tmp_path, Steps)
    verdict = optimize(predictor, example, "script", (1,), 0.0001)
    assert verdict.predictor is predictor
    assert "expected its end within" in verdict.reason


@pytest.mark.skipif(hasattr(torch, "compile"), reason="this torch can compile")
def test_an_old_torch_cannot_compile(tmp_path):
    predictor, example = prepare(tmp_path, Steps)
    assert "cannot compile" in optimize(predictor, example, "compile", (1,), 60).reason


@pytest.mark.nightly
@pytest.mark.skipif(not hasattr(torch, "compile"), reason="this torch cannot compile")
def test_a_compiled_form_answers_the_same(tmp_path):
    predictor, example = prepare(tmp_path, Steps)
    verdict = optimize(predictor, example, "compile", (1, 2, 32), 600)
    assert verdict.predictor.predict([[1.0, 2.0], [3.0, 4.0]]) == [[2.0, 6.0], [6.0, 12.0]]


def test_the_loader_tries_it_and_says_what_came_of_it(tmp_path, monkeypatch):
    (tmp_path / "steps.py").write_text(
        "import torch\n\nclass Steps(torch.nn.Module):\n    example_inputs = [[1.0, 2.0]]\n\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.scale = torch.nn.Parameter(torch.ones(2))\n\n"
        "    def forward(self, rows):\n        for step in range(300):\n            rows = rows + 1.0\n"
        "        return rows * self.scale\n"
    )
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"scale": torch.tensor([2.0, 3.0])}, str(path))
    said = []
    environ = {"SERVE_MODEL": "steps:Steps", "SERVE_CHECKPOINTS": "ck", "SERVE_PYTHON_PATH": str(tmp_path)}
    settings = load_settings({**environ, "SERVE_OPTIMIZE": "script"}, tmp_path).find()
    loader = ModelLoader(settings, say=lambda event, **facts: said.append((event, facts)))
    loaded = loader.load(Stored(path, sha256_of(path), path.stat().st_size), Manifest())
    assert loaded.predictor.predict([[1.0, 2.0]]) == [[602.0, 906.0]]
    assert [(event, facts["how"]) for event, facts in said if "optimized" in event] == [("optimized", "script")]
    loaded.predictor.release()
