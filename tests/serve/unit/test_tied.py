"""One memory under several names: served from whichever of them a file holds, and one memory again afterwards."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from pickles import READS_SAFELY
from trainer import sha256_of

pytestmark = pytest.mark.needs_torch
torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from torch import nn  # noqa: E402

from serve.checkpoint.manifest import Manifest  # noqa: E402
from serve.errors import CheckpointError  # noqa: E402
from serve.model import tensors  # noqa: E402
from serve.model.loader import ModelLoader  # noqa: E402
from serve.publishing.publish import publish  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402
from serve.store.checkpoint_store import Stored  # noqa: E402

SUPPORT = Path(__file__).parents[1] / "support"


class Base(nn.Module):
    example_inputs = ([1, 2, 3],)

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.tie()

    def tie(self):
        self.head.weight = self.emb.weight

    def forward(self, rows):
        return self.head(self.emb(rows).mean(1))


class SameMemory(Base):
    """Two parameters over one memory."""

    def tie(self):
        self.head.weight = nn.Parameter(self.emb.weight.data)


class Deep(Base):
    """Four names, some deep, one of a shared module, one of a buffer."""

    def tie(self):
        self.head.weight = self.emb.weight
        self.inner = nn.ModuleDict({"a": nn.Sequential(nn.ReLU(), nn.Linear(8, 20, bias=False))})
        self.inner["a"][1].weight = self.emb.weight
        self.again = self.head
        self.register_buffer("copy", self.emb.weight.data)

    def forward(self, rows):
        mean = self.emb(rows).mean(1)
        return self.head(mean) + self.again(mean) + self.inner["a"](mean) + mean @ self.copy.t()


class Transposed(Base):
    """An autoencoder: the one is a view of the other."""

    def tie(self):
        self.down = nn.Linear(20, 8, bias=False)
        self.down.weight = nn.Parameter(self.emb.weight.data.t())

    def forward(self, rows):
        return self.down(self.head(self.emb(rows).mean(1)))


class Buffers(Base):
    """A buffer under two names, and one that no file holds."""

    def tie(self):
        self.register_buffer("a", torch.randn(8))
        self.inner = nn.Module()
        self.inner.register_buffer("b", self.a)
        self.register_buffer("hidden", self.emb.weight.data, persistent=False)

    def forward(self, rows):
        return self.head(self.emb(rows).mean(1) * self.a + self.inner.b + self.hidden[0])


class Listed(Base):
    """What else refers to a parameter follows it."""

    def tie(self):
        self.listed, self.attribute = [self.emb.weight], self.emb.weight.detach()

    def forward(self, rows):
        return self.head(self.emb(rows).mean(1) + self.listed[0][1] + self.attribute[2])


class Flat(Base):
    """All of it lies in one flat memory."""

    def tie(self):
        self.flat = torch.randn(320)
        self.emb.weight = nn.Parameter(self.flat[:160].view(20, 8))
        self.head.weight = nn.Parameter(self.flat[160:].view(20, 8))

    def forward(self, rows):
        return self.head(self.emb(rows).mean(1)) + self.flat.sum()


KINDS = (Base, SameMemory, Deep, Transposed, Buffers, Listed, Flat)


def make_loader(tmp_path, monkeypatch, kind):
    environ = {"SERVE_MODEL": "affine:Affine", "SERVE_CHECKPOINTS": "ck", "SERVE_PYTHON_PATH": str(SUPPORT)}
    loader = ModelLoader(load_settings(environ, tmp_path).find())
    monkeypatch.setattr(loader, "_class", kind)
    return loader


def load(loader, path):
    path = Path(path)
    return loader.load(Stored(path, sha256_of(path), path.stat().st_size), Manifest()).predictor


def memories(module):
    """Which names lie in one memory."""
    groups = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        groups.setdefault(tensor.data_ptr(), set()).add(name)
    return sorted(map(sorted, groups.values()))


def files_of(module, directory):
    """The same weights as a trainer may have written them, each time under other names."""
    state = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    if READS_SAFELY:
        torch.save(module.state_dict(), str(directory / "m.pth"))
        yield (directory / "m.pth",)
    if not isinstance(module, (Flat, Transposed)):  # of which save_model writes nothing
        safetensors.torch.save_model(module, str(directory / "left.safetensors"))
        yield (directory / "left.safetensors",)
    groups = [names for names in memories(module) if len(names) > 1]
    chosen = [dict(zip(map(tuple, groups), kept)) for kept in itertools.product(*groups)]
    for place, kept in enumerate(chosen):
        dropped = {name for names, one in kept.items() for name in names if name != one}
        path = directory / f"{place}.safetensors"
        safetensors.torch.save_file({name: value for name, value in state.items() if name not in dropped}, str(path))
        yield (path,)


@pytest.mark.parametrize("assigns", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_whichever_name_the_file_holds(tmp_path, monkeypatch, kind, assigns):
    if assigns and not tensors.can_assign():
        pytest.skip("this torch copies")
    monkeypatch.setattr(tensors, "can_assign", lambda: assigns)
    loader = make_loader(tmp_path, monkeypatch, kind)
    local = kind().eval()
    right = local(torch.tensor([[4, 5, 6]])).tolist()
    for path in itertools.chain(*files_of(local, tmp_path)):
        published = publish(path, tmp_path / "ck")
        for one in (path, published.checkpoint):
            predictor = load(loader, one)
            assert torch.allclose(torch.tensor(predictor.predict([[4, 5, 6]])), torch.tensor(right), atol=1e-5), one
            assert memories(predictor.module) == memories(local), one


@pytest.mark.parametrize("name", ["head.weight", "emb.weight"])
def test_a_missing_name_that_is_not_tied_is_refused(tmp_path, monkeypatch, name):
    class Untied(Base):
        def tie(self):
            pass

    path = tmp_path / "m.safetensors"
    state = Untied().state_dict()
    del state[name]
    safetensors.torch.save_file(state, str(path))
    with pytest.raises(CheckpointError, match=f"{name}: expected F32.20, 8., missing") as caught:
        load(make_loader(tmp_path, monkeypatch, Untied), path)
    assert caught.value.code == "architecture"


def test_none_of_the_names_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"other": torch.ones(2)}, str(path))
    with pytest.raises(CheckpointError, match=r"emb\.weight: expected F32.*head\.weight: expected F32"):
        load(make_loader(tmp_path, monkeypatch, Base), path)


def test_two_values_for_one_tensor_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    state = {"emb.weight": torch.ones(20, 8), "head.weight": torch.zeros(20, 8)}
    safetensors.torch.save_file(state, str(path))
    with pytest.raises(CheckpointError, match=r"head\.weight: expected the values of emb\.weight"):
        load(make_loader(tmp_path, monkeypatch, Base), path)


def test_mapped_weights_stay_mapped(tmp_path, monkeypatch):
    if not tensors.can_assign():
        pytest.skip("this torch copies")
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_model(Base(), str(path))
    predictor = load(make_loader(tmp_path, monkeypatch, Base), path)
    address = predictor.module.head.weight.data_ptr()
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = {line[-1]: [int(end, 16) for end in line[0].split("-")] for line in maps if line[-1] == str(path)}
    assert any(begin <= address < end for begin, end in ranges.values())
