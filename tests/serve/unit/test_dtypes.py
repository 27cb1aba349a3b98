"""Every dtype that safetensors names: described as its header says, checked, published and served."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from pickles import needs_safe_pickles
from trainer import sha256_of

pytestmark = pytest.mark.needs_torch
torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from serve.checkpoint.formats import read_safetensors_interface  # noqa: E402
from serve.checkpoint.manifest import Manifest  # noqa: E402
from serve.errors import CheckpointError  # noqa: E402
from serve.model import tensors  # noqa: E402
from serve.model.loader import ModelLoader  # noqa: E402
from serve.publishing.publish import Extras, publish  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402
from serve.store.checkpoint_store import Stored  # noqa: E402

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64, "I64": 64, "I32": 32, "I16": 16, "I8": 8}
BITS.update({"U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F4": 4})
BITS.update({f"F8_{kind}": 8 for kind in ("E4M3", "E5M2", "E4M3FNUZ", "E5M2FNUZ", "E8M0")})
FLOATING = [name for name in BITS if name[0] in "FBC" and name not in ("BOOL", "F4")]


def written(path, dtype, content=b""):
    """A file of one tensor, `t`, of [2, 4] numbers, written by hand."""
    size = BITS[dtype]  # eight numbers of so many bits are as many bytes
    entry = {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": {"step": "5"}, "t": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content.ljust(size, b"\0"))
    return path


def load(path):
    """The tensor, or a skip where the installed libraries have no such type."""
    try:
        return safetensors.torch.load_file(str(path))["t"]
    except Exception as error:
        pytest.skip(f"these libraries cannot read it: {error}")


class Holder(torch.nn.Module):
    """Keeps one buffer, and answers its input."""

    example_inputs = ([0.0, 1.0],)
    kept = None

    def __init__(self):
        super().__init__()
        self.register_buffer("t", type(self).kept.clone())
        self.scale = torch.nn.Parameter(torch.ones(2))

    def forward(self, rows):
        return rows * self.scale


@pytest.fixture
def loader(tmp_path, monkeypatch):
    environ = {"SERVE_MODEL": "affine:Affine", "SERVE_CHECKPOINTS": "ck"}
    environ["SERVE_PYTHON_PATH"] = str(Path(__file__).parents[1] / "support")
    loader = ModelLoader(load_settings(environ, tmp_path).find())
    monkeypatch.setattr(loader, "_class", Holder)
    return loader


def served(loader, path):
    stored = Stored(Path(path), sha256_of(Path(path)), Path(path).stat().st_size)
    return loader.load(stored, Manifest()).predictor


@pytest.mark.parametrize("dtype", BITS)
def test_the_header_and_torch_say_the_same(tmp_path, dtype):
    path = written(tmp_path / "m.safetensors", dtype)
    assert tensors.interface_of({"t": load(path)}) == read_safetensors_interface(path)


@needs_safe_pickles
@pytest.mark.parametrize("dtype", BITS)
def test_what_torch_save_wrote_is_served(tmp_path, loader, dtype):
    content = bytes([0, 1] * 4) if dtype == "BOOL" else bytes(range(64))[: BITS[dtype]]
    Holder.kept = load(written(tmp_path / "m.safetensors", dtype, content))
    path = tmp_path / "m.pth"
    torch.save(Holder().state_dict(), str(path))
    published = publish(path, tmp_path / "ck", extras=Extras(convert=True))
    assert read_safetensors_interface(Path(published.checkpoint))["t"].dtype == dtype
    for one in (path, published.checkpoint):
        predictor = served(loader, one)
        assert predictor.module.t.reshape(-1).view(torch.uint8).tolist() == list(content), one
        assert predictor.predict([[2.0, 3.0]]) == [[2.0, 3.0]]


@pytest.mark.parametrize("dtype", FLOATING)
def test_not_a_number_is_found(tmp_path, loader, dtype):
    size = BITS[dtype] // 8
    nan = {"F8_E4M3FNUZ": b"\x80", "F8_E5M2FNUZ": b"\x80", "C64": b"\xff" * 4 + b"\0" * 4}.get(dtype, b"\xff" * size)
    state = {"t": load(written(tmp_path / "m", dtype, nan))}
    with pytest.raises(CheckpointError, match="NaN"):
        tensors.require_finite(state, torch.nn.Module())
    whole = {"t": load(written(tmp_path / "w", dtype))}
    tensors.require_finite(whole, torch.nn.Module())


def test_a_module_of_eight_bits_takes_the_precision_of_what_computes(tmp_path, loader, monkeypatch):
    if not hasattr(torch, "float8_e4m3fn"):
        pytest.skip("this torch has no type of eight bits")

    class Scaled(torch.nn.Module):
        example_inputs = ([0.0, 1.0],)

        def __init__(self):
            super().__init__()
            self.a = torch.nn.Parameter(torch.ones(2).to(torch.float8_e4m3fn), requires_grad=False)
            self.b = torch.nn.Parameter(torch.ones(2))

        def forward(self, rows):
            return rows * self.a.float() + self.b

    monkeypatch.setattr(loader, "_class", Scaled)
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(Scaled().state_dict(), str(path))
    assert served(loader, path).predict([[2.0, 3.0]]) == [[3.0, 4.0]]


@needs_safe_pickles
def test_a_type_that_safetensors_has_no_name_for_is_published_as_it_is(tmp_path, loader):
    Holder.kept = torch.ones(2, dtype=torch.complex128)
    path = tmp_path / "m.pth"
    torch.save(Holder().state_dict(), str(path))
    published = publish(path, tmp_path / "ck")
    assert published.format == "torch"
    assert served(loader, published.checkpoint).module.t.dtype == torch.complex128
