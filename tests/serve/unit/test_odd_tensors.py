"""Tensors of every type, layout and kind: looked at for what requests leave behind, and never in the way of a model."""

from __future__ import annotations

import contextlib
import itertools
import re
import types

import pytest

pytestmark = pytest.mark.needs_torch
torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from serve.model.outputs import to_arrays, to_host, to_lists  # noqa: E402
from serve.model.request_state import (  # noqa: E402
    Versions,
    changed,
    snapshot,
)

DTYPES = sorted({found for found in vars(torch).values() if isinstance(found, torch.dtype)}, key=str)
WRITTEN = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
LAYOUTS = ("", "to_sparse", "to_sparse_csr", "to_sparse_csc", "to_mkldnn", "conj", "neg")


class Sealed(torch.Tensor):
    """A subclass that answers nothing."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError(function)


def make(dtype, layout, shape):
    """The tensor, or `None` where this torch has no such one."""
    try:
        bits = torch.zeros(shape, dtype=torch.uint8)
        tensor = (
            bits.view(dtype)
            if torch.empty(0, dtype=dtype).element_size() == 1 and dtype != torch.bool
            else bits.to(dtype)
        )
        return getattr(tensor, layout)() if layout else tensor
    except Exception:
        return None


def odd_ones():
    ones = torch.ones(2, 2)
    yield "nan", torch.tensor([float("nan"), 1.0])
    yield "meta", torch.empty(2, device="meta")
    yield "scalar", torch.tensor(1.5)
    yield "expanded", torch.ones(1).expand(3)
    yield "lazy parameter", nn.parameter.UninitializedParameter()
    yield "lazy buffer", nn.parameter.UninitializedBuffer()
    yield "per tensor", torch.quantize_per_tensor(ones, 0.5, 0, torch.qint8)
    yield "per channel", torch.quantize_per_channel(ones, torch.ones(2), torch.zeros(2), 0, torch.quint8)
    with contextlib.suppress(RuntimeError, AttributeError):  # an older torch
        yield "four bits", torch.quantize_per_tensor(torch.ones(4), 0.5, 0, torch.quint4x2)
        yield "nested", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    yield "sealed", ones.as_subclass(Sealed)
    with torch.inference_mode():
        yield "inference", torch.ones(2)
    for dtype, layout, shape in itertools.product(DTYPES, LAYOUTS, ((2, 2), (0, 2), (64, 64))):
        yield f"{dtype} {layout} {shape}", make(dtype, layout, shape)


class Keeper:
    """A servable that holds a tensor, alone and inside of others."""

    def __init__(self, tensor):
        self.alone, self.inside = tensor, {"list": [tensor], "object": types.SimpleNamespace(tensor=tensor)}


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_said_of_a_tensor_that_stays_and_all_of_one_that_is_written():
    seen = 0
    for name, tensor in odd_ones():
        if tensor is None:
            continue
        module, keeper = nn.Module(), Keeper(tensor)
        module._buffers["kept"] = tensor
        seen += 1
        before, versions = snapshot(keeper, module), Versions(types.SimpleNamespace(**views(tensor)))
        assert changed(before, snapshot(keeper, module)) == [], name
        assert versions.written() == versions.touched() == [], name
        # Writing into some of the others corrupts the memory of torch 2.13.
        if name == "sealed" or tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in WRITTEN:
            continue
        try:
            earlier = tensor.clone()
            tensor.zero_()
            is_written = tensor._version > 0 and not torch.equal(earlier, tensor)
        except Exception:  # no such operation, or no counter
            continue
        if is_written:
            assert set(changed(before, snapshot(keeper, module))) == {"self.alone", "self.inside"}, name
            assert versions.written() == versions.touched() == ["kept"], name
    assert seen > 60


def views(tensor):
    """What `Versions` asks of a module; a real one refuses some of these tensors."""
    return {
        "state_dict": lambda: {"kept": tensor},
        "named_parameters": lambda: iter(()),
        "named_buffers": lambda: iter([("kept", tensor)]),
    }


class Raising:
    @property
    def __dict__(self):
        raise RuntimeError("nothing to see")


def test_objects_that_raise_when_they_are_read_are_passed_over():
    keeper = Keeper(Raising())
    assert changed(snapshot(keeper, nn.Module()), snapshot(keeper, nn.Module())) == []


NUMBERS = [[0.0, 1.5], [0.0, -2.0]]


def answers_of():
    """Tensors that hold `NUMBERS`, by what is odd about them."""
    dense = torch.tensor(NUMBERS)
    yield "dense", dense
    yield "of training", dense.clone().requires_grad_()
    yield from ((layout, getattr(dense, layout)()) for layout in LAYOUTS if "to_" in layout and hasattr(dense, layout))
    yield "conjugate", torch.complex(torch.zeros(2, 2), -dense).conj().imag
    yield "negative", (-dense)._neg_view()
    yield "quantized", torch.quantize_per_tensor(dense, 0.5, 10, torch.quint8)
    yield "transposed", dense.t().contiguous().t()
    yield "float16", dense.half()
    yield from (
        (str(dtype), dense.to(dtype))
        for dtype in DTYPES
        if str(dtype) == "torch.bfloat16" or re.search(r"float8_e[45]", str(dtype))
    )


@pytest.mark.parametrize("tensor", [pytest.param(tensor, id=name) for name, tensor in answers_of()])
def test_an_odd_answer_is_the_numbers_that_it_holds(tensor):
    assert to_lists({"a": [tensor, None]}) == {"a": [NUMBERS, None]}
    assert to_arrays({"a": tensor})["a"].tolist() == NUMBERS
    assert to_host([tensor])[0].tolist() == NUMBERS


def test_an_answer_of_rows_of_several_lengths_is_lists_and_no_array():
    if not hasattr(torch, "nested"):
        pytest.skip("this torch has no nested tensors")
    nested = torch.nested.nested_tensor([torch.tensor([1.0]), torch.tensor([2.0, 3.0])])
    assert to_lists(nested) == [[1.0], [2.0, 3.0]]
    with pytest.raises(ValueError, match="expected rows of one length"):
        to_arrays(nested)
