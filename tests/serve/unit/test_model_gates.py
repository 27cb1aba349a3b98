"""The gates before a swap, with the torch of this interpreter, whatever its version."""

from __future__ import annotations

import inspect
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from trainer import ROW, sha256_of

pytestmark = pytest.mark.needs_torch
pytest.importorskip("torch")

import torch  # noqa: E402

from serve.checkpoint.manifest import (  # noqa: E402
    Golden,
    Manifest,
    Stored,
    parse_marker,
)
from serve.checkpoint.provenance import Provenance  # noqa: E402
from serve.errors import CheckpointError, MemoryShortError, ModelError  # noqa: E402
from serve.model import loader, weights  # noqa: E402
from serve.model.loader import ModelLoader  # noqa: E402
from serve.model.slot import Generation, Slot  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402
from serve.system import resources  # noqa: E402

SUPPORT = Path(__file__).parents[1] / "support"
UNSTATED = Manifest()


def make_settings(tmp_path, **environ):
    least = {"SERVE_MODEL": "affine:Affine", "SERVE_CHECKPOINTS": "ck", "SERVE_PYTHON_PATH": str(SUPPORT)}
    return load_settings({**least, **environ}, tmp_path).find()


def stored(path):
    return Stored(path, sha256_of(path), path.stat().st_size)


def assert_refused(loader, path, code, manifest=UNSTATED):
    with pytest.raises(CheckpointError) as caught:
        loader.load(stored(path), manifest)
    assert caught.value.code == code, caught.value.message
    return caught.value.message


def go_live(slot, loader, path, number=1):
    loaded = loader.load(stored(path), UNSTATED)
    slot.swap(Generation(loaded.predictor, Provenance("m", "v", number, sha256_of(path), None), {}))
    return loaded


def test_golden_requests_of_the_manifest_are_asked(tmp_path, trainer):
    path = trainer.train(1)
    loader = ModelLoader(make_settings(tmp_path))
    right = Golden([ROW], [trainer.expected(sha256_of(path))])
    assert loader.load(stored(path), Manifest(golden=(right,))).predictor.predict([ROW])
    assert "golden[1]" in assert_refused(
        loader, path, "golden", Manifest(golden=(right, replace(right, outputs=[[0.0, 0.0]])))
    )


def test_the_class_may_refuse_a_model(tmp_path, trainer):
    path = trainer.train(1)
    message = assert_refused(ModelLoader(make_settings(tmp_path, SERVE_MODEL="affine:Choosy")), path, "validate")
    assert "the bias must be 0" in message
    zero = trainer.write(
        "zero", {"layer.weight": numpy.ones((2, 4), "float32"), "layer.bias": numpy.zeros(2, "float32")}
    )
    assert ModelLoader(make_settings(tmp_path, SERVE_MODEL="affine:Choosy")).load(stored(zero), UNSTATED)


def test_an_answer_of_another_form_is_refused_unless_allowed(tmp_path, trainer):
    slot = Slot()
    go_live(slot, ModelLoader(make_settings(tmp_path)), trainer.train(1))
    for policy in ("refuse", "allow"):
        settings = make_settings(tmp_path, SERVE_MODEL="affine:Transposed", SERVE_CHANGED_INTERFACE=policy)
        loader = ModelLoader(settings, slot)
        if policy == "refuse":
            message = assert_refused(loader, trainer.train(2), "interface")
            assert "outputs: expected number[1, 2], found number[2, 1]" in message
        else:
            assert loader.load(stored(trainer.train(2)), UNSTATED)


def test_a_manifest_may_state_the_form(tmp_path, trainer):
    path, loader = trainer.train(1), ModelLoader(make_settings(tmp_path))
    loader.load(stored(path), Manifest(interface={"outputs": "number[1, 2]"}))
    assert "its manifest states" in assert_refused(loader, path, "interface", Manifest(interface={"outputs": "text"}))


def test_warm_up_sizes(tmp_path, trainer):
    loader = ModelLoader(make_settings(tmp_path, SERVE_MODEL="affine:AtMostEight", SERVE_WARM_UP_SIZES="4,8"))
    assert loader.load(stored(trainer.train(1)), UNSTATED)
    loader = ModelLoader(make_settings(tmp_path, SERVE_MODEL="affine:AtMostEight", SERVE_WARM_UP_SIZES="4,9"))
    assert "9 rows" in assert_refused(loader, trainer.train(1), "warm-up")


def test_a_model_that_hangs_is_refused_at_the_deadline(tmp_path, trainer):
    loader = ModelLoader(make_settings(tmp_path, SERVE_MODEL="affine:Hanging", SERVE_WARM_UP_TIMEOUT_S="0.3"))
    assert "still running" in assert_refused(loader, trainer.train(1), "warm-up")


@pytest.mark.parametrize(
    ("is_shared", "is_assigned", "expected"), [(True, True, 300), (True, False, 400), (False, True, 600)]
)
def test_how_much_three_workers_need(is_shared, is_assigned, expected):
    assert loader.needed_bytes(100, 3, is_shared, is_assigned) == expected


def test_what_would_not_fit_is_refused_with_the_numbers(tmp_path, trainer, monkeypatch):
    slot = Slot()
    loader = ModelLoader(make_settings(tmp_path), slot)
    go_live(slot, loader, trainer.train(1))
    path = trainer.train(2)
    # Not this machine's memory: there is no way to have it run short that spares other processes.
    monkeypatch.setattr(resources, "read_available", lambda: resources.Available(100, "here"))
    huge = Stored(path, sha256_of(path), 3_000_000)
    with pytest.raises(MemoryShortError, match=r"expected \d\.\d MiB, found 0\.0 MiB \(here\)"):
        loader.load(huge, UNSTATED)
    unchecked = ModelLoader(make_settings(tmp_path, SERVE_MEMORY="unchecked"), slot)
    assert unchecked.load(huge, UNSTATED)


@pytest.fixture
def resource(tmp_path, trainer):
    slot = Slot()
    loader = ModelLoader(make_settings(tmp_path, SERVE_MEMORY="resource", SERVE_WARM_UP_TIMEOUT_S="20"), slot)
    return slot, loader


def test_resource_mode_unloads_before_it_loads(resource, trainer, monkeypatch):
    slot, loader = resource
    old = go_live(slot, loader, trainer.train(1))
    seen = []
    read = weights.read_state

    def read_state(*arguments):
        freed = all(parameter.numel() == 0 for parameter in old.predictor.module.parameters())
        seen.append((slot.live, slot.is_draining, freed))
        return read(*arguments)

    monkeypatch.setattr("serve.model.loader.read_state", read_state)
    go_live(slot, loader, trainer.train(2), 2)
    assert seen == [(None, False, True)]
    assert slot.live.provenance.generation == 2


def test_resource_mode_waits_for_the_requests(resource, trainer):
    slot, loader = resource
    first = trainer.train(1, "first")
    go_live(slot, loader, first)
    done, begun = [], threading.Event()

    def request():
        with slot.lease() as generation:
            begun.set()
            time.sleep(0.5)
            done.append(generation.predictor.predict([ROW]))

    thread = threading.Thread(target=request)
    thread.start()
    begun.wait()
    loader.load(stored(trainer.train(2)), UNSTATED)
    assert done == [[trainer.expected(sha256_of(first))]]
    thread.join()


def test_resource_mode_brings_the_old_model_back(resource, trainer):
    slot, loader = resource
    first = trainer.train(1, "first")
    go_live(slot, loader, first)
    path = trainer.train(2)
    assert_refused(loader, path, "golden", Manifest(golden=(Golden([ROW], [[0.5, 0.5]]),)))
    assert slot.live.provenance.generation == 1
    assert slot.live.predictor.predict([ROW]) == [trainer.expected(sha256_of(first))]
    assert not slot.is_draining
    # What the cheap gates refuse does not cost a moment of answers.
    before = slot.live
    assert_refused(loader, trainer.write("bad", {"layer.bias": numpy.zeros(2, "float32")}), "architecture")
    assert slot.live is before


def test_resource_mode_gives_up_when_requests_do_not_end(tmp_path, trainer):
    slot = Slot()
    loader = ModelLoader(make_settings(tmp_path, SERVE_MEMORY="resource", SERVE_WARM_UP_TIMEOUT_S="0.2"), slot)
    go_live(slot, loader, trainer.train(1))
    with slot.lease() as generation:
        with pytest.raises(MemoryShortError, match="requests of generation 1"):
            loader.load(stored(trainer.train(2)), UNSTATED)
        assert slot.live is generation
        assert slot.take_drained() == []
        assert generation.predictor.predict([ROW])


def script(trainer, path, seed=1):
    """The same weights as TorchScript."""
    state = weights.read_state(trainer.train(seed), "safetensors", False)
    layer = torch.nn.Linear(4, 2)
    layer.load_state_dict({name.partition(".")[2]: tensor for name, tensor in state.items()})
    torch.jit.script(layer).save(str(path))
    trainer.remember(path, trainer.train(seed))
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_served_when_configured(tmp_path, trainer):
    path = script(trainer, trainer.work / "m.pt")
    assert 'format = "torchscript"' in refusal_hint(ModelLoader(make_settings(tmp_path)), path)
    loader = ModelLoader(make_settings(tmp_path, SERVE_FORMAT="torchscript"))
    loaded = loader.load(stored(path), Manifest(format="torchscript"))
    assert loaded.predictor.predict([ROW]) == [trainer.expected(sha256_of(path))]
    assert loaded.format == "torchscript"
    loaded.predictor.release()
    assert_refused(loader, trainer.train(1), "format")
    path.write_bytes(path.read_bytes()[:-30])
    assert_refused(loader, path, "format")


def refusal_hint(loader, path):
    with pytest.raises(CheckpointError) as caught:
        loader.load(stored(path), UNSTATED)
    assert caught.value.code == "format"
    return caught.value.hint


def test_refuse_refuses_every_pickle(tmp_path, trainer):
    path = trainer.work / "m.pth"
    torch.save({"layer.weight": torch.zeros(2, 4), "layer.bias": torch.zeros(2)}, str(path))
    loader = ModelLoader(make_settings(tmp_path, SERVE_PICKLE="refuse", SERVE_ALLOWED_PICKLES=sha256_of(path)))
    assert_refused(loader, path, "pickle")


class Bomb:
    """Unpickles into a file on the disk."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_nothing_is_unpickled_before_its_signature_is_verified(tmp_path, trainer):
    pytest.importorskip("cryptography", reason="the extra [sign] is not installed")
    from serve.checkpoint.signature import sign, write_keys

    public, _ = write_keys(tmp_path / "key")
    exploded = tmp_path / "exploded"
    path = trainer.work / "bomb.pth"
    torch.save({"layer.weight": Bomb(exploded)}, str(path))
    stated = {"sha256": sha256_of(path), "format": "torch"}
    loader = ModelLoader(make_settings(tmp_path, SERVE_VERIFY_KEY=str(public), SERVE_PICKLE="trusted"))
    unsigned = parse_marker(json.dumps(stated).encode())
    assert_refused(loader, path, "signature", unsigned)
    assert_refused(loader, path, "signature", UNSTATED)
    other = {**stated, "sha256": "0" * 64}
    assert_refused(
        loader,
        path,
        "signature",
        parse_marker(json.dumps({**other, "signature": sign(other, tmp_path / "key")}).encode()),
    )
    assert not exploded.exists()
    signed = parse_marker(json.dumps({**stated, "signature": sign(stated, tmp_path / "key")}).encode())
    assert_refused(loader, path, "content", signed)
    assert exploded.exists(), "whoever signs a pickle may run code"


def test_a_key_that_cannot_be_read_stops_the_server(tmp_path):
    with pytest.raises(ModelError, match="verify_key"):
        ModelLoader(make_settings(tmp_path, SERVE_VERIFY_KEY="nowhere.pub"))


@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("1.12.1", ("CVE-2025-32434", "CVE-2026-24747")),
        ("2.8.0+cu126", ("CVE-2026-24747",)),
        ("2.10.0", ()),
        ("2.13.0+cpu", ()),
    ],
)
def test_known_ways_past_weights_only(version, names):
    assert weights.weaknesses(version) == names


def test_the_warning_is_said_once_by_each_loader(tmp_path):
    said = []
    ModelLoader(make_settings(tmp_path), None, lambda event, **facts: said.append(event))
    assert said == (["warning"] if weights.weaknesses(torch.__version__) else [])


def test_release_frees_every_tensor(tmp_path, trainer):
    predictor = ModelLoader(make_settings(tmp_path)).load(stored(trainer.train(1)), UNSTATED).predictor
    predictor.release()
    assert [parameter.numel() for parameter in predictor.module.parameters()] == [0, 0]


def test_assignment_is_asked_of_torch_itself():
    from serve.model import tensors

    assert tensors.can_assign() == ("assign" in inspect.signature(torch.nn.Module().load_state_dict).parameters)
