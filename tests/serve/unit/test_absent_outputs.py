"""Modules that give `None` beside their tensors, as a loss without targets."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.needs_torch

from serve.model import torch_predictor as outputs  # noqa: E402 - torch may be missing
from serve.model.batch_independence import gap  # noqa: E402


@pytest.mark.parametrize("make", [lambda rows: (rows, None), lambda rows: {"logits": rows, "loss": None}])
def test_what_is_absent_is_absent_for_each_and_no_array(make):
    rows = torch.arange(6.0).reshape(3, 2)
    first, second = outputs.split(make(rows), [1, 2])
    assert gap(make(rows[:1]), first if isinstance(first, dict) else tuple(first)) == 0
    assert gap(make(rows[:1]), make(rows[1:2])) > 0
    assert gap((rows, None), (rows, rows)) > 0
    assert len(outputs.to_arrays(second)) == 1
