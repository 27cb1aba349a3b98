"""Models that compute gradients while they answer, and classes that answer with arrays and tensors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from trainer import sha256_of

pytestmark = [pytest.mark.needs_torch, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")

from serve.checkpoint.manifest import Manifest  # noqa: E402
from serve.codec import strict_json  # noqa: E402
from serve.errors import CheckpointError  # noqa: E402
from serve.model import answers  # noqa: E402
from serve.model.loader import ModelLoader  # noqa: E402
from serve.publishing.publish import publish  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402
from serve.store.checkpoint_store import Stored  # noqa: E402

CLASS = """
import collections, dataclasses, functools
import numpy, torch
Out = collections.namedtuple("Out", "energy forces")
class Net(torch.nn.Module):
    example_inputs = [[0.5, 0.25, 0.125]]
    table = None
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
    def energy(self, x):
        return self.layer(x).pow(2).sum(1)
"""
FORCES = {
    "of a copy": """
    def forward(self, x):
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            return torch.autograd.grad(self.energy(x).sum(), x)[0]
""",
    "of what came": """
    def forward(self, x):
        with torch.enable_grad():
            x.requires_grad_()
            self.energy(x).sum().backward()
        return x.grad
""",
    "of what the class made": """
    def inputs_to_tensors(self, rows):
        return torch.tensor(rows, dtype=torch.float32).requires_grad_()
    def forward(self, x):
        with torch.enable_grad():
            self.energy(x).sum().backward()
        return x.grad
""",
    "with a graph left": """
    def forward(self, x):
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]
""",
    "with a table of the first call": """
    def forward(self, x):
        with torch.enable_grad():
            if self.table is None:
                self.table = torch.ones(3)
            x = x.clone().requires_grad_()
            return torch.autograd.grad((self.energy(x * self.table)).sum(), x)[0]
""",
    "by name": """
    def forward(self, x):
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            energy = self.energy(x)
            return Out(energy, torch.autograd.grad(energy.sum(), x)[0])
    def tensors_to_outputs(self, out):
        return out.forces
""",
}
_NUMBERS = itertools.count()


def load(tmp_path, methods):
    """A class of these methods with weights of ones, and its predictor."""
    name = f"net_{next(_NUMBERS)}_of_gradients"
    (tmp_path / f"{name}.py").write_text(CLASS + methods)
    environ = {"SERVE_MODEL": f"{name}:Net", "SERVE_CHECKPOINTS": "ck", "SERVE_PYTHON_PATH": str(tmp_path)}
    torch.save({"layer.weight": torch.ones(1, 3), "layer.bias": torch.zeros(1)}, str(tmp_path / "w.pt"))
    published = publish(tmp_path / "w.pt", tmp_path / "ck")
    path = Path(published.checkpoint)
    stored = Stored(path, sha256_of(path), published.size)
    return (
        ModelLoader(load_settings(environ, tmp_path).find()).load(stored, Manifest(format=published.format)).predictor
    )


@pytest.mark.parametrize("kind", FORCES)
def test_every_run_of_a_request_gives_the_same_forces_and_no_weight_keeps_a_gradient(tmp_path, kind):
    predictor = load(tmp_path, FORCES[kind])
    prepared = predictor.prepare([[1.0, 2.0, 3.0]])
    first = predictor.run(prepared)
    for _ in range(3):
        assert predictor.postprocess(predictor.run(prepared)) == [[12.0, 12.0, 12.0]]
    assert predictor.postprocess(first) == [[12.0, 12.0, 12.0]]
    assert predictor.find_fault(prepared, first) is None
    assert [weight.grad for weight in predictor.module.parameters()] == [None, None]


OUTPUTS = {
    "a tensor": "y",
    "an array": "y.numpy()",
    "coarse": "y.bfloat16()",
    "sparse": "y.to_sparse()",
    "in an object": "{'scores': y, 'best': y.argmax(), 'first': y.numpy()[0, 0]}",
    "in lists": "[[row, 1] for row in y]",
    "in a tuple": "(y, None)",
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_arrays_and_tensors_in_outputs_are_plain_for_whoever_looks(tmp_path, kind):
    methods = (
        f"    def forward(self, x): return self.layer(x)\n    def tensors_to_outputs(self, y): return {OUTPUTS[kind]}\n"
    )
    predictor = load(tmp_path, methods)
    prepared = predictor.prepare([[1.0, 2.0, 3.0]])
    outputs = predictor.postprocess(predictor.run(prepared))
    text = json.dumps(outputs)
    assert "6.0" in text
    assert json.loads(strict_json.dump(outputs)) == json.loads(text)
    assert not answers.disagreements(outputs, outputs, "tolerance", (1e-6, 0.0))
    assert predictor.find_fault(prepared, predictor.run(prepared)) is None
    assert predictor.find_fault(prepared, torch.tensor([[float("nan")]]))[0] == "finite"


@pytest.mark.parametrize(
    ("made", "dtype", "shape"),
    [
        ("y", "float32", (1, 1)),
        ("y.numpy().astype('int32')", "int32", (1, 1)),
        ("y.half()", "float16", (1, 1)),
        ("numpy.zeros((0, 3), 'float32')", "float32", (0, 3)),
        ("numpy.float32(3)", "float32", ()),
        ("[[1.0, 2.0]]", "float64", (1, 2)),
        ("{'a': [row for row in y]}", "float64", (1, 1)),
    ],
)
def test_arrays_of_a_class_keep_their_type_and_shape(tmp_path, made, dtype, shape):
    methods = f"    def forward(self, x): return self.layer(x)\n    def tensors_to_outputs(self, y): return {made}\n"
    predictor = load(tmp_path, methods)
    (array,) = predictor.postprocess_arrays(predictor.run(predictor.prepare([[1.0, 2.0, 3.0]]))).values()
    assert (array.dtype.name, array.shape) == (dtype, shape)


@pytest.mark.parametrize(
    ("methods", "right"),
    [
        ("    def forward(self, x): return {'a': self.layer(x), 'n': numpy.float32(3)}", {"a": [[6.0]], "n": 3.0}),
        (
            "    def forward(self, x): return self.layer(x)\n"
            "    def tensors_to_outputs(self, y): return {'a': numpy.array([numpy.ones(2), y], dtype=object)}",
            {"a": [[1.0, 1.0], [[6.0]]]},
        ),
    ],
)
def test_scalars_and_arrays_of_arrays_are_answers(tmp_path, methods, right):
    assert load(tmp_path, methods + "\n").predict([[1.0, 2.0, 3.0]]) == right


@pytest.mark.parametrize("seconds", [(0.6, 0.6), (1.2, 0.0)])
def test_a_buffer_that_is_filled_anew_is_found_however_slow_the_model_is(tmp_path, seconds):
    methods = f"""
    def forward(self, x):
        import time
        time.sleep({seconds[0]} if self.table is None else {seconds[1]})
        if self.table is None:
            self.table = torch.zeros(1, 1)
        self.table.copy_(self.layer(x))
        return self.table
"""
    assert load(tmp_path, methods).memory.raw


@pytest.mark.parametrize(
    "made", ["torch.complex(y, y).conj().imag", "y.neg()._neg_view()", "torch.nested.nested_tensor([y[0]])"]
)
def test_odd_answers_are_no_fault(tmp_path, made):
    if "nested" in made and not hasattr(torch, "nested"):
        pytest.skip("this torch has no nested tensors")
    predictor = load(tmp_path, f"    def forward(self, x):\n        y = self.layer(x)\n        return {made}\n")
    prepared = predictor.prepare([[1.0, 2.0, 3.0]])
    assert predictor.find_fault(prepared, predictor.run(prepared)) is None


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ("functools.reduce(lambda value, _: [value], range(5000), 1)", "recursion"),
        ("(lambda found: found.append(found) or found)([{}])", "recursion"),
        ("y * float('inf')", "found inf"),
        ("torch.complex(y, y)", "found (1+1j)"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_the_warm_up(tmp_path, outputs, says):
    methods = "    def forward(self, x): return torch.ones(1, 1)\n    def tensors_to_outputs(self, y): return "
    with pytest.raises(
        CheckpointError, match="(?i)" + says.replace("(", r"\(").replace("+", r"\+").replace(")", r"\)")
    ) as caught:
        load(tmp_path, methods + outputs + "\n")
    assert caught.value.code == "warm-up"
