"""No answer depends on who else asks: families of modules that look at all rows, and ordinary ones that do not."""

from __future__ import annotations

import time
from typing import ClassVar

import pytest

torch = pytest.importorskip("torch", reason="torch is not in this interpreter; run these in the created environment")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from serve.model import contract, tensors, torch_predictor  # noqa: E402 - they bring torch
from serve.model.request_state import Versions  # noqa: E402
from serve.model.trial import Examiner  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402

ZEROS = [[0.0] * 4]
ONES = [[1.0, 2.0, 3.0, 4.0]]
ROWS = [[1.0, 2.0, 3.0, 4.0], [-1.0, 0.5, 0.0, 2.0]]


class Of(nn.Module):
    """A linear layer around which a function stands."""

    def __init__(self, function, example=ZEROS):
        super().__init__()
        self.layer, self.function, self.example_inputs = nn.Linear(4, 4), function, example

    def forward(self, x):
        return self.function(self.layer, x)


def examine(tmp_path, built, module=None, prepare=lambda module: module, patience_s=60.0):
    torch.manual_seed(0)
    torch_predictor.limit_threads(1)
    settings = load_settings({"SERVE_MODEL": "m:M", "SERVE_CHECKPOINTS": "ck"}, tmp_path).find()
    module = prepare(module or contract.build_module(settings, built))
    tensors.freeze(module)
    predictor = contract.connect(settings, built, module)
    return Examiner(built, predictor, built.example_inputs, (), Versions(module), 32, patience_s).examine()


def edge(x, places, width):
    return x.scatter(1, places % width, 1.0)


DEPENDENT = {
    # statistics
    "mean": lambda f, x: f(x - x.mean(0, keepdim=True)),
    "a little of the mean": lambda f, x: f(x) + 1e-4 * x.mean(0, keepdim=True),
    "sum of all": lambda f, x: f(x) / (1 + x.abs().sum()),
    "deviation": lambda f, x: f(x) / (1 + x.std(0, unbiased=False)),
    "median": lambda f, x: f(x - x.median(0).values),
    "norm of all": lambda f, x: functional.normalize(f(x), dim=0),
    "batch norm of the batch": lambda f, x: functional.batch_norm(f(torch.cat([x, x * 2])), None, None, training=True)[
        : len(x)
    ],
    # extremes and scales
    "largest": lambda f, x: f(x - x.amax(0, keepdim=True)),
    "largest of all": lambda f, x: f(x / x.abs().max().clamp(min=1)),
    "clamped by the smallest": lambda f, x: f(x).maximum(x.min()),
    "scale": lambda f, x: f(torch.fake_quantize_per_tensor_affine(x, float(x.abs().max()) / 127 + 1e-6, 0, -128, 127)),
    "a threshold": lambda f, x: f(x) if x.abs().max() < 100 else f(-x),
    # order and place
    "sorted": lambda f, x: f(x.sort(0).values),
    "reversed": lambda f, x: f(x.flip(0)),
    "running sum": lambda f, x: f(x.cumsum(0)),
    "neighbours": lambda f, x: f(x) + x.roll(1, 0),
    "place": lambda f, x: f(x) + torch.arange(len(x))[:, None],
    "number of rows": lambda f, x: f(x) * len(x),
    "many rows": lambda f, x: f(x) if len(x) < 20 else f(x) * 2,
    "the first row": lambda f, x: f(x) + x[:1],
    "the last row": lambda f, x: f(x) + x[-1:],
    "softmax over rows": lambda f, x: f(x).softmax(0),
    "attention over rows": lambda f, x: torch.softmax(f(x) @ x.t(), 1) @ x,
    "rows unlike the others": lambda f, x: f(x) + torch.cdist(x, x).sum(1, keepdim=True),
    "duplicates": lambda f, x: f(x) + (torch.cdist(x, x) == 0).sum(1, keepdim=True),
    "rank": lambda f, x: f(x) + x.argsort(0).argsort(0),
    # other forms
    "no rows come out": lambda f, x: f(x).mean(0),
    "one row comes out": lambda f, x: f(x).sum(0, keepdim=True),
    "labels of the batch": lambda f, x: f(x) > f(x).mean(),
}


@pytest.mark.parametrize("example", [ZEROS, ONES, ROWS], ids=["zeros", "numbers", "two rows"])
@pytest.mark.parametrize("name", DEPENDENT)
def test_a_module_whose_rows_see_each_other_is_not_batched(tmp_path, name, example):
    assert examine(tmp_path, Of(DEPENDENT[name], example)).alone_because


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["mean", "largest", "running sum", "softmax over rows"])
def test_the_same_as_torchscript(tmp_path, name):
    class Function(nn.Module):
        example_inputs = ZEROS

        def forward(self, x):
            return DEPENDENT[name](lambda x: x, x)

    traced = torch.jit.trace(Function(), torch.randn(3, 4))
    assert examine(tmp_path, Function(), traced).alone_because


class Graph(nn.Module):
    """Nodes, and edges as two rows of their numbers."""

    example_inputs: ClassVar = {"nodes": [[1.0, 2.0], [3.0, 4.0]], "edges": [[0, 1], [1, 0]]}

    def forward(self, nodes, edges):
        return nodes.index_add(0, edges[1], nodes[edges[0]])


class CustomGraph(Graph):
    example_inputs: ClassVar = {"nodes": [[1.0], [2.0], [3.0]], "edges": [[0, 1], [1, 2]]}

    def inputs_to_tensors(self, inputs):
        return torch.tensor(inputs["nodes"]), torch.tensor(inputs["edges"])


class Recurrent(nn.Module):
    """Takes the rows for time."""

    example_inputs = ZEROS * 3

    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.recurrent = kind(4, 8)

    def forward(self, x):
        return self.recurrent(x)[0]


class Convolution(nn.Module):
    """A convolution over the rows."""

    example_inputs = ROWS * 2

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.layer(x.T[None])[0].T


class Training(nn.Module):
    """Left in training, as it says so itself."""

    example_inputs = ROWS

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def train(self, mode=True):
        return super().train(True)

    def forward(self, x):
        return self.norm(x)


@pytest.mark.parametrize(
    "built",
    [Graph, CustomGraph, Recurrent, lambda: Recurrent(nn.GRU), lambda: Recurrent(nn.RNN), Convolution, Training],
)
def test_first_dimensions_that_are_no_rows(tmp_path, built):
    assert examine(tmp_path, built()).alone_because


class Widths(nn.Module):
    """Cuts its answer where a number, a place or a truth value of any row has it."""

    def __init__(self, name, value):
        super().__init__()
        self.example_inputs = {"x": [[1.0, 2.0, 3.0, 4.0]], name: [value]}

    def forward(self, x, k=None, mask=None, last=None):
        if mask is not None:
            return x * (1 + mask.any())
        return x.topk(int(k.max()), 1).values if k is not None else x[:, : 1 + last.max()]


@pytest.mark.parametrize(("name", "value"), [("k", 1), ("k", 2), ("k", 4), ("last", 0), ("last", 3), ("mask", False)])
def test_whole_numbers_of_one_row_that_cut_the_answers_of_all(tmp_path, name, value):
    assert examine(tmp_path, Widths(name, value)).alone_because


def test_batch_statistics_are_seen_as_changing_weights(tmp_path):
    assert "norm.running_mean" in examine(tmp_path, Training()).written


class Quantised(Of):
    def __init__(self):
        super().__init__(lambda f, x: f(x), ZEROS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not torch.backends.quantized.supported_engines[1:], reason="no quantised kernels here")
def test_a_dynamically_quantised_layer_scales_by_all_rows(tmp_path):
    def quantise(module):
        return torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)

    assert examine(tmp_path, Quantised(), prepare=quantise).alone_because


class Conv(nn.Module):
    example_inputs: ClassVar = [[[[0.0] * 16] * 16] * 3]

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
        )

    def forward(self, x):
        return self.layers(x).softmax(1)


class Mlp(nn.Module):
    example_inputs: ClassVar = [[0.0] * 64]

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Dropout(), nn.Linear(256, 10))

    def forward(self, x):
        return self.layers(x)


class Sequences(nn.Module):
    example_inputs: ClassVar = [[1, 2, 3, 4, 5]]

    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.table, self.recurrent = nn.Embedding(50, 16), kind(16, 16, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.recurrent(self.table(x))[0][:, -1]


class Transformer(nn.Module):
    example_inputs: ClassVar = {"ids": [[1, 2, 3, 4]], "mask": [[True, True, True, False]]}

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.table, self.layers = nn.Embedding(50, 16), nn.TransformerEncoder(layer, 2)

    def forward(self, ids, mask):
        return self.layers(self.table(ids), src_key_padding_mask=~mask)[:, 0]


class Experts(nn.Module):
    """Each row takes its own way, in groups whose size depends on all rows."""

    example_inputs = ROWS

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 3), nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        out, chosen = torch.zeros_like(x), self.gate(x).argmax(1)
        for number, expert in enumerate(self.experts):
            out[chosen == number] = expert(x[chosen == number])
        return out


class InPlace(Of):
    def __init__(self):
        super().__init__(lambda f, x: f(x.mul_(2).add_(1)), ONES)


class Texts(nn.Module):
    example_inputs: ClassVar = ["abc", "de"]

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def inputs_to_tensors(self, inputs):
        return torch.tensor([[float(sum(map(ord, text)))] for text in inputs])

    def forward(self, x):
        return self.layer(x)

    def tensors_to_outputs(self, y):
        return [{"best": int(row.argmax()), "score": float(row[0])} for row in y]


class Mixed(Mlp):
    """Outputs of several kinds."""

    def forward(self, x):
        y = self.layers(x)
        return {"half": y.half(), "brain": y.bfloat16(), "best": y.argmax(1), "is": y > 0, "wide": y.double()}


ORDINARY = [Conv, Mlp, Sequences, lambda: Sequences(nn.GRU), Transformer, Experts, InPlace, Texts, Mixed]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("built", ORDINARY)
def test_ordinary_models_are_batched(tmp_path, built):
    found = examine(tmp_path, built())
    assert (found.alone_because, found.kept, found.written) == ("", (), ())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("built", [Conv, Mlp, lambda: Of(lambda f, x: f(x), ROWS)])
def test_so_are_those_of_other_precision(tmp_path, built, dtype):
    try:
        torch.nn.Linear(1, 1).to(dtype)(torch.zeros(1, 1, dtype=dtype))
    except RuntimeError:
        pytest.skip(f"this torch computes nothing in {dtype} on the processor")
    assert examine(tmp_path, built(), prepare=lambda module: module.to(dtype)).alone_because == ""


def test_a_run_whose_length_depends_on_its_numbers_only_ends_the_trial(tmp_path):
    built = Of(lambda f, x: f(x) if float(x.abs().max()) < 100 else time.sleep(0.5) or f(x))
    assert "still running" in examine(tmp_path, built, patience_s=0.2).alone_because


def compare(tmp_path, built, rows, place):
    """Run requests together, and return what comes of answering one of them alone."""
    settings = load_settings({"SERVE_MODEL": "m:M", "SERVE_CHECKPOINTS": "ck"}, tmp_path).find()
    torch.manual_seed(0)
    tensors.freeze(built)
    predictor = contract.connect(settings, built, built)
    several = [predictor.prepare(torch.randn(count, 4).tolist()) for count in rows]
    parts = predictor.split(predictor.run(predictor.stack(several)), rows)
    return predictor.compare_alone(several[place], parts[place], rows, place)


@pytest.mark.parametrize(("rows", "place"), [([1, 1], 0), ([1] * 7, 6), ([2, 1, 3], 1), ([2, 2], 1)])
def test_what_is_answered_once_more_alone(tmp_path, rows, place):
    assert compare(tmp_path, Of(lambda f, x: f(x)), rows, place) == 0
    assert compare(tmp_path, Of(lambda f, x: {"label": f(x).argmax(1), "is": f(x) > 0}), rows, place) == 0
    assert compare(tmp_path, Of(DEPENDENT["mean"]), rows, place) > 0.01
    assert compare(tmp_path, Of(lambda f, x: f(x - x.mean(0)) > 0.0), [1] * 7, 3) > 0


def test_a_label_that_turns_with_the_last_digit_is_no_difference(tmp_path):
    turning = Of(lambda f, x: torch.full((len(x),), len(x) % 2))
    assert compare(tmp_path, turning, [1] * 4, 2) == 0
    largest = Of(lambda f, x: x[:, 0] == x[:, 0].max())
    assert [compare(tmp_path, largest, [1] * 4, place) > 0 for place in range(4)].count(True) == 3
