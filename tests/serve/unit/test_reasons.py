"""What cannot be served says what it is and what to do; what comes close to it is served."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
from pickles import needs_safe_pickles
from trainer import sha256_of

pytestmark = [pytest.mark.needs_torch, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from torch import nn  # noqa: E402

from serve.__main__ import main  # noqa: E402
from serve.checkpoint.manifest import Manifest  # noqa: E402
from serve.errors import CheckpointError, InputError, ModelError  # noqa: E402
from serve.model.loader import ModelLoader  # noqa: E402
from serve.publishing.publish import publish  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402
from serve.store.checkpoint_store import Stored  # noqa: E402
from serve.store.quarantine import explain  # noqa: E402

SUPPORT = Path(__file__).parents[1] / "support"


class Line(nn.Module):
    example_inputs = ([0.0, 1.0],)

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 2)

    def forward(self, rows):
        return self.line(rows)


@pytest.fixture
def load(tmp_path, monkeypatch):
    def run(kind, path, **environ):
        least = {"SERVE_MODEL": "affine:Affine", "SERVE_CHECKPOINTS": "ck", "SERVE_PYTHON_PATH": str(SUPPORT)}
        loader = ModelLoader(load_settings({**least, **environ}, tmp_path).find())
        monkeypatch.setattr(loader, "_class", kind)
        path = Path(path)
        return loader.load(Stored(path, sha256_of(path), path.stat().st_size), Manifest()).predictor

    return run


def saved(tmp_path, state, name="m.safetensors"):
    safetensors.torch.save_file(state, str(tmp_path / name))
    return tmp_path / name


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "F16"), (torch.bfloat16, "BF16"), (torch.float64, "F64")])
def test_weights_of_another_precision(tmp_path, load, dtype, name):
    path = saved(tmp_path, {key: value.to(dtype) for key, value in Line().state_dict().items()})
    with pytest.raises(CheckpointError, match=f"expected F32.*found {name}") as caught:
        load(Line, path)
    assert f"cast the module to {name}" in caught.value.hint


def test_lazy_layers_take_their_shapes_from_the_example(tmp_path, load):
    class Lazy(Line):
        def __init__(self):
            super().__init__()
            self.line = nn.LazyLinear(2)

    local = Line().eval()
    path = saved(tmp_path, local.state_dict())
    assert load(Lazy, path).predict([[3.0, 4.0]]) == local(torch.tensor([[3.0, 4.0]])).tolist()
    other = saved(tmp_path, {"line.weight": torch.ones(2, 3), "line.bias": torch.ones(2)}, "other.safetensors")
    with pytest.raises(CheckpointError, match=r"line\.weight: expected F32\[2, 2\], found F32\[2, 3\]"):
        load(Lazy, other)

    class Raising(Lazy):
        def forward(self, rows):
            raise RuntimeError("no such thing")

    with pytest.raises(ModelError, match=r"lazy layers.*no such thing") as caught:
        load(Raising, path)
    assert "run the example" in caught.value.hint


def extra(state):
    class WithExtra(Line):
        vocabulary = None

        def get_extra_state(self):
            return state

        def set_extra_state(self, given):
            self.vocabulary = given

    return WithExtra


@needs_safe_pickles
def test_extra_state(tmp_path, load, capsys):
    words = extra({"a": 1, "b": 2})
    path = tmp_path / "m.pth"
    torch.save(words().state_dict(), str(path))
    assert load(words, path).module.vocabulary == {"a": 1, "b": 2}
    assert main(["publish", str(path), "--to", str(tmp_path / "ck")]) == 0
    said = capsys.readouterr().out
    assert "not converted" in said
    assert "_extra_state" in said
    assert load(words, tmp_path / "ck" / "m.pth").module.vocabulary == {"a": 1, "b": 2}
    with pytest.raises(
        CheckpointError, match="_extra_state: expected extra state that is not a tensor, missing"
    ) as caught:
        load(words, saved(tmp_path, Line().state_dict()))
    assert "--no-convert" in caught.value.hint
    numbers = extra(torch.tensor([1, 2]))
    torch.save(numbers().state_dict(), str(path))
    published = publish(path, tmp_path / "ck")
    assert load(numbers, published.checkpoint).module.vocabulary.tolist() == [1, 2]


def test_a_named_tuple_is_one_argument(tmp_path, load):
    Pair = collections.namedtuple("Pair", "first second")

    class Packed(nn.Module):
        example_inputs = ([1.0, 2.0], [3.0])

        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(1, 2)

        def inputs_to_tensors(self, inputs):
            return nn.utils.rnn.pack_sequence([torch.tensor(row)[:, None] for row in inputs], enforce_sorted=False)

        def forward(self, packed):
            return self.rnn(packed)[1][0]

    class Named(Line):
        def inputs_to_tensors(self, inputs):
            return Pair(torch.tensor(inputs), torch.tensor(1.0))

        def forward(self, pair):
            return self.line(pair.first) + pair.second

    local = Packed().eval()
    path = saved(tmp_path, local.state_dict())
    predictor = load(Packed, path)
    with torch.no_grad():
        right = local(local.inputs_to_tensors([[1.0, 2.0], [3.0]])).tolist()
    assert predictor.predict([[1.0, 2.0], [3.0]]) == right
    assert not predictor.can_batch
    path = saved(tmp_path, Named().state_dict(), "named.safetensors")
    assert load(Named, path).predict([[1.0, 2.0]])


@pytest.mark.parametrize(
    "content", [b"nothing", b"\x10" + b"\0" * 7 + b"{" + b" " * 20, b"PK\x03\x04cut", b"\x80\x02cut"]
)
def test_the_stores_name_is_not_said(tmp_path, load, content):
    path = tmp_path / "a7c744c13cc1"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load(Line, path)
    said = explain(caught.value)
    assert path.name not in said
    assert "\n" not in said


def test_an_exception_says_nothing_to_a_terminal():
    assert explain(RuntimeError("\x1b[1mred\x1b[0m\nand\x07 more")) == "RuntimeError: red and more"


class Sparse(Line):
    def __init__(self):
        super().__init__()
        self.sparse = nn.Parameter(torch.eye(2).to_sparse())

    def forward(self, rows):
        return torch.sparse.mm(self.sparse, self.line(rows).t()).t()


class Quantised(nn.Module):
    example_inputs = Line.example_inputs

    def __init__(self):
        super().__init__()
        self.net = torch.quantization.quantize_dynamic(Line().eval(), {nn.Linear}, dtype=torch.qint8)

    def forward(self, rows):
        return self.net(rows)


@needs_safe_pickles
@pytest.mark.parametrize("kind", [Sparse, Quantised])
def test_what_safetensors_cannot_hold_is_served_as_it_is(tmp_path, load, kind):
    local = kind().eval()
    path = tmp_path / "m.pth"
    torch.save(local.state_dict(), str(path))
    published = publish(path, tmp_path / "ck")
    assert "not converted: safetensors" in published.notes[0]
    with torch.no_grad():
        right = local(torch.tensor([[3.0, 4.0]])).tolist()
    assert load(kind, published.checkpoint).predict([[3.0, 4.0]]) == right


needs_export = pytest.mark.skipif(not hasattr(torch, "export"), reason="this torch exports nothing")


def exported(tmp_path, rows=None):
    local = Line().eval()
    shapes = {} if rows else {"dynamic_shapes": ({0: torch.export.Dim("rows")},)}
    program = torch.export.export(local, (torch.ones(rows or 3, 2),), **shapes)
    path = tmp_path / "m.pt2"
    torch.export.save(program, str(path))
    return local, path


@needs_export
def test_programs_of_torch_export(tmp_path, load, capsys):
    local, path = exported(tmp_path)
    with pytest.raises(CheckpointError, match="found export") as caught:
        load(Line, path)
    assert 'format = "export"' in caught.value.hint
    assert main(["publish", str(path), "--to", str(tmp_path / "ck")]) == 0
    assert 'format = "export"' in capsys.readouterr().out
    for policy in ("weights_only", "trusted", "refuse"):
        with pytest.raises(CheckpointError, match=r"found a torch\.export program") as caught:
            load(Line, path, SERVE_FORMAT="export", SERVE_PICKLE=policy)
        assert caught.value.code == "pickle"
        assert "allowed_pickles" in caught.value.hint
    allowed = {"SERVE_FORMAT": "export", "SERVE_ALLOWED_PICKLES": sha256_of(path)}
    predictor = load(Line, path, **allowed)
    for rows in ([[1.0, 2.0]], [[1.0, 2.0]] * 5):
        assert torch.allclose(torch.tensor(predictor.predict(rows)), local(torch.tensor(rows)))
    predictor.release()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError):
        load(Line, path, SERVE_FORMAT="export", SERVE_ALLOWED_PICKLES=sha256_of(path))


@needs_export
def test_a_program_for_one_number_of_rows(tmp_path, load):
    local, path = exported(tmp_path, rows=1)
    predictor = load(Line, path, SERVE_FORMAT="export", SERVE_ALLOWED_PICKLES=sha256_of(path))
    assert torch.allclose(torch.tensor(predictor.predict([[1.0, 2.0]])), local(torch.tensor([[1.0, 2.0]])))
    assert not predictor.can_batch
    with pytest.raises(InputError, match="exported for"):
        predictor.predict([[1.0, 2.0]] * 2)


def test_torchscript_names_its_key(tmp_path, load, capsys):
    path = tmp_path / "m.pt"
    torch.jit.script(Line()).save(str(path))
    with pytest.raises(CheckpointError) as caught:
        load(Line, path)
    assert 'format = "torchscript"' in caught.value.hint
    assert main(["publish", str(path), "--to", str(tmp_path / "ck")]) == 0
    assert 'format = "torchscript"' in capsys.readouterr().out
