"""Examples that a class does not have: stated by their form, or guessed from its layers."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.needs_torch

from serve.model import example  # noqa: E402 - torch may be missing

nn = torch.nn


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 4)

    def forward(self, ids, mask, scale=1.0):
        return (self.table(ids) * mask[..., None]).sum(1) * scale


class OddOrder(nn.Module):
    """Its first layer is not what its input meets first."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.body = nn.Conv1d(3, 8, 3)

    def forward(self, signal):
        return self.head(self.body(signal).mean(2))


class Nothing(nn.Module):
    def forward(self, graph):
        return graph.nodes


NETS = {
    "linear": (lambda: nn.Sequential(nn.Linear(7, 2)), "float32[1, 7]"),
    "sequence": (lambda: nn.TransformerEncoderLayer(8, 2, batch_first=True), "float32[1, 16, 8]"),
    "image": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), "float32[1, 3, 32, 32]"),
    "digits": (lambda: nn.Sequential(nn.Conv2d(1, 2, 5), nn.Flatten(), nn.Linear(1152, 3)), "float32[1, 1, 28, 28]"),
    "video": (lambda: nn.Conv3d(1, 2, 3), "float32[1, 1, 16, 32, 32]"),
    "texts": (lambda: nn.Embedding(30, 4), "int64[1, 16]"),
    "small table": (lambda: nn.Embedding(5, 4), "int64[1, 5]"),
    "recurrent": (lambda: nn.GRU(6, 4, batch_first=True), "float32[1, 16, 6]"),
    "norm first": (lambda: nn.Sequential(nn.BatchNorm1d(9), nn.Linear(9, 1)), "float32[1, 9]"),
    "odd order": (OddOrder, "float32[1, 3, 16]"),
    "two inputs": (TwoInputs, {"ids": "int64[1, 16]", "mask": "int64[1, 16]"}),
}


@pytest.mark.parametrize("name", NETS)
def test_what_a_module_takes_is_guessed(name):
    make, expected = NETS[name]
    module = make()
    found = example.guess(module)
    assert found == expected
    made = example.expand(found)
    given = made.values() if isinstance(made, dict) else [made]
    with torch.no_grad():
        module(*(torch.tensor(one) for one in given))


def test_where_nothing_fits_there_is_no_guess():
    assert example.guess(Nothing()) is None


def test_a_stated_form_is_drawn_the_same_each_time_and_no_row_is_another():
    first, again = example.expand("float32[4, 3]"), example.expand("float32[4,3]")
    assert first == again
    assert len({tuple(row) for row in first}) == 4
    assert example.expand([[1.0]]) == [[1.0]]
    assert example.expand({"text": "hello", "ids": "int64[2]"})["text"] == "hello"
    with pytest.raises(ValueError, match="expected a type of torch"):
        example.expand("number[2]")
