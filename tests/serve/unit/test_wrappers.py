"""State dicts as trainers write them: published, loaded, and equal to the module that was trained."""

from __future__ import annotations

import argparse
import collections
import itertools
import json
from pathlib import Path

import pytest
from pickles import needs_safe_pickles
from trainer import sha256_of

pytestmark = pytest.mark.needs_torch
torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from torch import nn  # noqa: E402

from serve.__main__ import main  # noqa: E402
from serve.checkpoint.formats import read_safetensors_interface  # noqa: E402
from serve.checkpoint.manifest import Manifest  # noqa: E402
from serve.errors import CheckpointError, PublishError  # noqa: E402
from serve.model.loader import ModelLoader  # noqa: E402
from serve.model.state_dicts import WRAPPERS, Architecture, fit, strip_wrappers  # noqa: E402
from serve.publishing.publish import Extras, publish  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402
from serve.store.checkpoint_store import Stored  # noqa: E402

SUPPORT = Path(__file__).parents[1] / "support"
ROW = [[1.0, 2.0, 3.0, 4.0]]


class Net(nn.Module):
    example_inputs = ([0.0, 1.0, 2.0, 3.0],)

    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.out = nn.Linear(8, 2)

    def forward(self, rows):
        return self.out(self.enc(rows))


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def inside(part, state):
    """As a wrapper of a submodule has it: `enc.0.weight` becomes `enc._orig_mod.0.weight`."""
    return {name.replace("enc.", f"enc.{part}."): value for name, value in state.items()}


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2), "step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
NAMED_OPTIMIZER = {"state": {"out.weight": {"exp_avg": torch.ones(2)}}, "param_groups": []}
# Prefixes that all names share.
PREFIXES = {
    "bare": "",
    "ddp": "module.",
    "compiled": "_orig_mod.",
    "ddp of compiled": "module._orig_mod.",
    "compiled ddp": "_orig_mod.module.",
    "fsdp": "_fsdp_wrapped_module.",
    "checkpointed": "_checkpoint_wrapped_module.",
    "fabric": "_forward_module.",
    "lightning": "model.",
    "lightning of compiled": "model._orig_mod.",
    "deep": "trainer.module.net.",
}
# Bundles around a state dict.
BUNDLES = {
    "alone": lambda state: state,
    "ordered": collections.OrderedDict,
    **{
        f"under {key}": lambda state, key=key: {key: state, "optimizer": OPTIMIZER, "epoch": 3, "loss": torch.ones(())}
        for key in ("model", "net", "module", "network", "weights", "params", "ema", "model_state_dict", "state_dict")
    },
    "lightning": lambda state: {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"best": torch.ones(1)},
        "optimizer_states": [OPTIMIZER],
        "lr_schedulers": [],
        "hparams_name": "x",
    },
    "one in the other": lambda state: {"checkpoint": {"state_dict": state, "step": 5}, "optim": NAMED_OPTIMIZER},
    "deepspeed": lambda state: {"module": state, "optimizer": NAMED_OPTIMIZER, "ds_version": "0.1", "lr_scheduler": {}},
    "with numbers": lambda state: {**state, "epoch": 3, "name": "x"},
}


def make_loader(tmp_path, monkeypatch, kind=Net, say=None, **environ):
    least = {"SERVE_MODEL": "affine:Affine", "SERVE_CHECKPOINTS": "ck", "SERVE_PYTHON_PATH": str(SUPPORT)}
    loader = ModelLoader(load_settings({**least, **environ}, tmp_path).find(), say=say)
    monkeypatch.setattr(loader, "_class", kind)
    return loader


def load(loader, path):
    path = Path(path)
    return loader.load(Stored(path, sha256_of(path), path.stat().st_size), Manifest()).predictor


def saved(tmp_path, bundle, name="m.pth"):
    path = tmp_path / name
    torch.save(bundle, str(path))
    return path


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_wrapper_in_every_other(depth):
    """Before all names, inside a name, and both at once, with a trainer's own name before them all."""
    wanted = Architecture({"enc.0.weight": "F32[2]", "enc.0.bias": "F32[2]", "out": "F32[]"})
    for parts in itertools.product(WRAPPERS, repeat=depth):
        prefix = "".join(f"{part}." for part in parts)
        assert strip_wrappers([prefix + name for name in wanted.tensors]) == prefix
        for head, within in ((prefix, ""), ("", prefix), (prefix, prefix), (f"model.{prefix}", prefix)):
            names = {name: head + name.replace("enc.", f"enc.{within}") for name in wanted.tensors}
            assert fit(wanted, {names[name]: wanted.tensors[name] for name in names}).names == names


@needs_safe_pickles
@pytest.mark.parametrize("bundle", BUNDLES)
def test_every_bundle_with_every_prefix(tmp_path, monkeypatch, bundle):
    local = Net().eval()
    right = local(torch.tensor(ROW)).tolist()
    said = []
    loader = make_loader(tmp_path, monkeypatch, say=lambda event, **facts: said.append((event, facts)))
    some = PREFIXES if bundle == "alone" else ("bare", "ddp of compiled", "lightning")
    for name, prefix in ((name, PREFIXES[name]) for name in some):
        path = saved(tmp_path, BUNDLES[bundle](under(prefix, local.state_dict())))
        published = publish(path, tmp_path / "ck")
        for one in (path, published.checkpoint):
            assert torch.allclose(torch.tensor(load(loader, one).predict(ROW)), torch.tensor(right)), (name, one)
        if prefix:
            notes = " ".join(published.notes) + json.dumps(said)
            assert prefix in notes, name


@pytest.mark.parametrize("part", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"])
def test_wrapped_parts(tmp_path, monkeypatch, part):
    local = Net().eval()
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(inside(part, local.state_dict()), str(path))
    assert load(make_loader(tmp_path, monkeypatch), path).predict(ROW) == local(torch.tensor(ROW)).tolist()


@pytest.mark.parametrize("child", ["module", "model", "_orig_mod"])
def test_a_model_whose_own_child_has_the_name_of_a_wrapper(tmp_path, monkeypatch, child):
    class Wrapping(nn.Module):
        example_inputs = Net.example_inputs

        def __init__(self):
            super().__init__()
            setattr(self, child, Net())

        def forward(self, rows):
            return getattr(self, child)(rows)

    local = Wrapping().eval()
    loader = make_loader(tmp_path, monkeypatch, Wrapping)
    for prefix in ("", "module.", "module._orig_mod."):
        published = publish(saved(tmp_path, under(prefix, local.state_dict())), tmp_path / "ck")
        assert load(loader, published.checkpoint).predict(ROW) == local(torch.tensor(ROW)).tolist()


@needs_safe_pickles
def test_real_wrappers(tmp_path, monkeypatch):
    local = Net().eval()
    right = local(torch.tensor(ROW)).tolist()
    wrapped = [nn.DataParallel(local), torch.optim.swa_utils.AveragedModel(local)]
    if hasattr(torch, "compile"):
        wrapped += [torch.compile(local), torch.compile(nn.DataParallel(local)), torch.compile(wrapped[1])]
    loader = make_loader(tmp_path, monkeypatch)
    for one in wrapped:
        path = saved(tmp_path, {"model": one.state_dict(), "optimizer": OPTIMIZER})
        for file in (path, publish(path, tmp_path / "ck").checkpoint):
            assert load(loader, file).predict(ROW) == right, type(one)


@needs_safe_pickles
def test_two_candidates_are_the_users_to_choose(tmp_path, monkeypatch):
    first, second = Net().eval(), Net().eval()
    bundle = {"state_dict": first.state_dict(), "state_dict_ema": second.state_dict()}
    path = saved(tmp_path, bundle)
    with pytest.raises(PublishError, match='"state_dict" and "state_dict_ema"') as caught:
        publish(path, tmp_path / "ck")
    assert "--key state_dict" in caught.value.hint
    assert not (tmp_path / "ck").exists()
    loader = make_loader(tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match='"state_dict" and "state_dict_ema"') as refused:
        load(loader, path)
    assert "--key" in refused.value.hint
    for key, net in (("state_dict", first), ("state_dict_ema", second)):
        published = publish(path, tmp_path / "ck", extras=Extras(weights_key=key))
        assert f'took off "{key}"' in published.notes
        assert load(loader, published.checkpoint).predict(ROW) == net(torch.tensor(ROW)).tolist()
    with pytest.raises(PublishError, match="--key: expected one of"):
        publish(path, tmp_path / "ck", extras=Extras(weights_key="nothing"))


@needs_safe_pickles
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_two_prefixes_are_the_users_to_choose(tmp_path, monkeypatch, suffix):
    first, second = Net().eval(), Net().eval()
    state = {**under("online_model.", first.state_dict()), **under("ema_model.", second.state_dict())}
    path = tmp_path / f"m.{suffix}"
    if suffix == "pth":
        torch.save(state, str(path))
    else:
        safetensors.torch.save_file(state, str(path), metadata={"step": "3"})
    loader = make_loader(tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match=r'"ema_model\." and "online_model\."') as refused:
        load(loader, path)
    assert '--strip-prefix "ema_model."' in refused.value.hint
    published = publish(path, tmp_path / "ck", extras=Extras(strip_prefix="ema_model."))
    assert load(loader, published.checkpoint).predict(ROW) == second(torch.tensor(ROW)).tolist()
    if suffix == "safetensors":
        with safetensors.safe_open(published.checkpoint, "pt") as opened:
            assert opened.metadata() == {"step": "3"}
    with pytest.raises(PublishError, match=r'--strip-prefix: expected.*found "ema_model." and "online_model."'):
        publish(path, tmp_path / "ck", extras=Extras(strip_prefix="other."))


def test_part_of_another_architecture_is_not_taken(tmp_path, monkeypatch):
    """What remains without a prefix fits, but is not all that the file holds."""
    deeper = nn.Sequential(collections.OrderedDict(first=Net(), second=nn.Linear(2, 2)))
    path = saved(tmp_path, deeper.state_dict())
    with pytest.raises(CheckpointError, match="more than the module") as caught:
        load(make_loader(tmp_path, monkeypatch), publish(path, tmp_path / "ck").checkpoint)
    assert '--strip-prefix "first."' in caught.value.hint


def test_a_difference_behind_a_prefix_is_shown_without_it(tmp_path, monkeypatch):
    state = under("model.", Net().state_dict())
    state["model.out.weight"] = torch.zeros(3, 8)
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(state, str(path))
    with pytest.raises(
        CheckpointError, match=r'out\.weight: expected F32\[2, 8\], found F32\[3, 8\].*taking off "model\."'
    ):
        load(make_loader(tmp_path, monkeypatch), path)


def test_names_that_a_trainer_may_give(tmp_path, monkeypatch):
    """Every pair of wrappers, one inside the other, in a file that nobody converted."""
    local = Net().eval()
    right = local(torch.tensor(ROW)).tolist()
    loader = make_loader(tmp_path, monkeypatch)
    for one, other in itertools.permutations(["module.", "_orig_mod.", "model.", "net.", "student."], 2):
        path = tmp_path / "m.safetensors"
        safetensors.torch.save_file(under(one + other, local.state_dict()), str(path))
        assert load(loader, publish(path, tmp_path / "ck").checkpoint).predict(ROW) == right, one + other


class Whole(Net):
    """At the top of a module, as a full pickle needs."""


@needs_safe_pickles
def test_full_pickles(tmp_path, monkeypatch, capsys):
    local = Net().eval()
    for bundle in (local, {"model": local, "epoch": 1}):
        path = saved(tmp_path, bundle)
        assert main(["publish", str(path), "--to", str(tmp_path / "ck")]) == 0
        said = capsys.readouterr().out
        assert "not converted" in said
        assert "--convert" in said
        assert "\x1b" not in said
        with pytest.raises(CheckpointError, match="Unsupported") as caught:
            load(make_loader(tmp_path, monkeypatch), path)
        assert caught.value.code == "pickle"
        assert "--convert" in caught.value.hint
        allowed = make_loader(tmp_path, monkeypatch, SERVE_ALLOWED_PICKLES=sha256_of(path))
        published = publish(path, tmp_path / "ck", extras=Extras(convert=True))
        assert set(read_safetensors_interface(Path(published.checkpoint))) == set(local.state_dict())
        for loader, file in ((allowed, path), (make_loader(tmp_path, monkeypatch), published.checkpoint)):
            assert load(loader, file).predict(ROW) == local(torch.tensor(ROW)).tolist()


class Bomb:
    """Unpickles into a file on the disk."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


class Settings(dict):
    """As Lightning keeps its hyperparameters."""


OBJECTS = {
    "namespace": argparse.Namespace(lr=0.1),
    "dictionary of a class": Settings(lr=0.1, more=Settings()),
    "default dictionary": collections.defaultdict(list, a=[1]),
    "queue": collections.deque([1]),
    "path": Path("x"),
    "function": Path.cwd,
    "class": Settings,
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("is_zip", [True, False])
def test_objects_beside_the_weights_are_left_out_and_not_run(tmp_path, monkeypatch, is_zip, protocol):
    local = Net().eval()
    exploded = tmp_path / "exploded"
    state = {f"model.{name}": value for name, value in local.state_dict(keep_vars=True).items()}
    path = tmp_path / "last.ckpt"
    bundle = {"bomb": Bomb(exploded), "state_dict": state, "all": OBJECTS, **OBJECTS}
    torch.save(bundle, str(path), pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    published = publish(path, tmp_path / "ck")
    assert not exploded.exists()
    assert any("left out objects of" in note and "argparse.Namespace" in note for note in published.notes)
    right = local(torch.tensor(ROW)).tolist()
    assert load(make_loader(tmp_path, monkeypatch), published.checkpoint).predict(ROW) == right
    torch.save({"model": local, "bomb": Bomb(exploded)}, str(path), pickle_protocol=protocol)
    assert publish(path, tmp_path / "ck").format == "torch"
    assert not exploded.exists()


class Quantised(nn.Module):
    """Its layers cannot be read without the version by which they were written."""

    example_inputs = ([0.0, 1.0, 2.0, 3.0],)

    def __init__(self):
        super().__init__()
        self.enc = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), {nn.Linear})

    def forward(self, rows):
        return self.enc(rows)


@needs_safe_pickles
@pytest.mark.parametrize("kind", ["bare", "numbers beside it", "attribute", "parallel", "inside"])
def test_versions_of_layers_survive_every_wrapper(tmp_path, monkeypatch, kind):
    local = Quantised().eval()
    right = local(torch.tensor(ROW)).tolist()
    wrapped = nn.ModuleDict({"model": local}) if kind == "attribute" else local
    if kind == "parallel":
        wrapped = nn.DataParallel(nn.DataParallel(local))
    if kind == "inside":
        local.enc = nn.DataParallel(local.enc)
    state = wrapped.state_dict()
    if kind == "numbers beside it":
        state["epoch"] = 3
    published = publish(saved(tmp_path, {"state_dict": state, "optimizer": OPTIMIZER}), tmp_path / "ck")
    assert published.format == "torch", "safetensors hold no dtypes"
    assert load(make_loader(tmp_path, monkeypatch, Quantised), published.checkpoint).predict(ROW) == right


@needs_safe_pickles
@pytest.mark.parametrize("converts", [None, True])
@pytest.mark.parametrize("kind", ["lazy", "meta"])
def test_weights_without_values_are_not_published(tmp_path, kind, converts):
    net = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2) if kind == "lazy" else nn.Linear(2, 2).to("meta"))
    with pytest.raises(PublishError, match=r"expected (values|weights), found") as refused:
        publish(saved(tmp_path, net.state_dict()), tmp_path / "ck", extras=Extras(convert=converts))
    assert refused.value.hint == "run the module once before its state is saved"
    assert not (tmp_path / "ck").exists()


@needs_safe_pickles
def test_an_optimizer_alone_is_no_checkpoint(tmp_path):
    with pytest.raises(PublishError, match="expected only tensors in the state dict"):
        publish(saved(tmp_path, OPTIMIZER), tmp_path / "ck")
