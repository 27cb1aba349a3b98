"""Loading with the torch of this interpreter, whatever its version."""

from __future__ import annotations

import hashlib
import inspect
import math
import struct
import types
from pathlib import Path

import numpy
import pytest
import safetensors.numpy
from trainer import ROW, sha256_of

pytestmark = pytest.mark.needs_torch
pytest.importorskip("torch")

import torch  # noqa: E402

from serve.checkpoint.manifest import Manifest, Stored  # noqa: E402
from serve.errors import CheckpointError, InputError, ModelError, TrialError  # noqa: E402
from serve.inference.model_instance import judge_of  # noqa: E402
from serve.model.loader import ModelLoader  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402

SUPPORT = Path(__file__).parents[1] / "support"
UNSTATED = Manifest()
HAS_WEIGHTS_ONLY = "weights_only" in inspect.signature(torch.load).parameters


def loader(tmp_path, model="affine:Affine", **settings):
    environ = {"SERVE_MODEL": model, "SERVE_CHECKPOINTS": "ck", "SERVE_PYTHON_PATH": str(SUPPORT)}
    return ModelLoader(load_settings({**environ, **settings}, tmp_path).find())


def stored(path):
    return Stored(path, sha256_of(path), path.stat().st_size)


def assert_refused(loader, path, code, manifest=UNSTATED):
    with pytest.raises(CheckpointError) as caught:
        loader.load(stored(path), manifest)
    assert caught.value.code == code, caught.value.message
    return caught.value.message


@pytest.fixture
def pth(trainer):
    """The checkpoint of seed 1 as torch.save writes it."""
    path = trainer.train(1)
    state = {name: torch.from_numpy(array) for name, array in safetensors.numpy.load_file(str(path)).items()}
    target = trainer.work / "model.pth"
    torch.save(state, str(target))
    trainer.remember(target, path)
    return target


def allow(path):
    return {"SERVE_ALLOWED_PICKLES": sha256_of(path)}


def test_safetensors(tmp_path, trainer):
    path = trainer.train(1)
    loaded = loader(tmp_path).load(stored(path), Manifest(format="safetensors"))
    assert loaded.predictor.predict([ROW]) == [trainer.expected(sha256_of(path))]
    assert loaded.format == "safetensors"
    assert loaded.predictor.expected_shape == (None, 4)
    assert not loaded.predictor.module.training
    assert not any(parameter.requires_grad for parameter in loaded.predictor.module.parameters())


def test_weights_do_not_change_with_the_path_that_was_copied(tmp_path, trainer):
    """The store's file may be unlinked while it is mapped."""
    path = trainer.train(1)
    predictor = loader(tmp_path).load(stored(path), UNSTATED).predictor
    expected = trainer.expected(sha256_of(path))
    path.unlink()
    assert predictor.predict([ROW]) == [expected]


def test_a_pickle_is_read_without_its_code_or_not_at_all(tmp_path, trainer, pth):
    if HAS_WEIGHTS_ONLY:
        loaded = loader(tmp_path).load(stored(pth), Manifest(format="torch"))
        assert loaded.predictor.predict([ROW]) == [trainer.expected(sha256_of(pth))]
    else:
        message = assert_refused(loader(tmp_path), pth, "pickle")
        assert torch.__version__ in message


def test_an_allowed_pickle_is_read_by_every_torch(tmp_path, trainer, pth):
    loaded = loader(tmp_path, **allow(pth)).load(stored(pth), UNSTATED)
    assert loaded.predictor.predict([ROW]) == [trainer.expected(sha256_of(pth))]


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict"])
def test_weights_beside_other_things(tmp_path, pth, key):
    path = pth.with_name("wrapped.pth")
    torch.save({key: torch.load(str(pth)), "epoch": 3}, str(path))
    assert loader(tmp_path, **allow(path)).load(stored(path), UNSTATED).predictor.predict([ROW])


class Bomb:
    """Unpickles into a file on the disk."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_a_pickle_that_runs_code_does_not(tmp_path, trainer):
    target = tmp_path / "exploded"
    path = trainer.work / "bomb.pth"
    torch.save({"layer.weight": Bomb(target)}, str(path))
    assert_refused(loader(tmp_path), path, "pickle")
    assert not target.exists()


def test_a_torn_pickle_is_refused(tmp_path, pth):
    whole = pth.read_bytes()
    for length in (5, 100, len(whole) // 2, len(whole) - 1):
        pth.write_bytes(whole[:length])
        assert_refused(loader(tmp_path, **allow(pth)), pth, "damaged")


@pytest.mark.parametrize("content", [5, {"layer.weight": "text"}, ["list"]])
def test_a_pickle_that_is_no_state_dict(tmp_path, trainer, content):
    path = trainer.work / "other.pth"
    torch.save(content, str(path))
    assert_refused(loader(tmp_path, **allow(path)), path, "content")


def test_another_architecture_is_refused(tmp_path, trainer):
    path = trainer.train(1)
    message = assert_refused(loader(tmp_path, SERVE_MODEL_ARGS='{"outputs": 3}'), path, "architecture")
    assert "layer.bias: expected F32[3], found F32[2]" in message
    assert "layer.weight: expected F32[3, 4], found F32[2, 4]" in message


def test_the_header_is_enough_to_refuse_another_architecture(tmp_path, trainer):
    """The weights of this file cannot be read by any version of safetensors."""
    header = b'{"layer.weight": {"dtype": "F5", "shape": [2, 4], "data_offsets": [0, 5]}}'
    path = trainer.work / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"12345")
    assert "found F5[2, 4]" in assert_refused(loader(tmp_path), path, "architecture")


def test_a_pickle_of_another_architecture_is_refused(tmp_path, pth):
    assert_refused(loader(tmp_path, SERVE_MODEL_ARGS='{"outputs": 3}', **allow(pth)), pth, "architecture")


def test_a_marker_that_states_another_format(tmp_path, trainer):
    assert_refused(loader(tmp_path), trainer.train(1), "format", manifest=Manifest(format="torch"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_parameters_must_be_finite(tmp_path, trainer, value):
    bias = numpy.array([0, value], "float32")
    path = trainer.write("bad", {"layer.weight": numpy.zeros((2, 4), "float32"), "layer.bias": bias})
    assert "layer.bias" in assert_refused(loader(tmp_path), path, "finite")


def test_buffers_may_be_infinite_but_not_nan(tmp_path, trainer):
    state = {"scale": numpy.ones(2, "float32"), "mask": numpy.array([0, -numpy.inf], "float32")}
    predictor = loader(tmp_path, "affine:Masked").load(stored(trainer.write("ok", state)), UNSTATED).predictor
    assert predictor.predict([[5, 6]]) == [[1.0, 0.0]]
    state["mask"][0] = numpy.nan
    assert "mask" in assert_refused(loader(tmp_path, "affine:Masked"), trainer.write("bad", state), "finite")


def test_a_model_that_cannot_answer_its_example(tmp_path, trainer):
    message = assert_refused(loader(tmp_path, "affine:Raising"), trainer.train(1), "warm-up")
    assert "this model never answers" in message


def test_a_class_with_hooks_of_its_own(tmp_path, trainer):
    table = numpy.arange(26, dtype="float32").reshape(26, 1)
    path = trainer.write("words", {"weight": table})
    predictor = loader(tmp_path, "affine:Words").load(stored(path), UNSTATED).predictor
    assert predictor.predict(["abc", "z"]) == {"sums": [3.0, 25.0]}
    with pytest.raises(InputError, match="expected a list of words"):
        predictor.predict([1])


def test_whole_numbers_stay_whole(tmp_path, trainer):
    path = trainer.write("whole", {"table.weight": numpy.arange(10, dtype="float32").reshape(10, 1)})
    predictor = loader(tmp_path, "affine:Whole").load(stored(path), UNSTATED).predictor
    assert predictor.predict([[1, 2, 3], [9, 9, 9]]) == [6.0, 27.0]
    with pytest.raises(InputError, match="fractions"):
        predictor.predict([[1.5, 2, 3]])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("affine:Missing", "cannot be imported"),
        ("no_such_module:M", "cannot be imported"),
        ("affine:torch", "expected a class"),
    ],
)
def test_classes_that_cannot_be_imported(tmp_path, model, message):
    with pytest.raises(ModelError, match=message):
        loader(tmp_path, model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("affine:Unbuildable", "no such vocabulary"),
        ("affine:Exampleless", "example_inputs"),
        ("builtins:dict", "expected a torch.nn.Module"),
    ],
)
def test_classes_that_cannot_be_built(tmp_path, trainer, model, message):
    with pytest.raises(ModelError, match=message):
        loader(tmp_path, model).load(stored(trainer.train(1)), UNSTATED)


def test_arguments_that_the_class_does_not_take(tmp_path, trainer):
    with pytest.raises(ModelError, match="hiden") as caught:
        loader(tmp_path, SERVE_MODEL_ARGS='{"hiden": 3}').load(stored(trainer.train(1)), UNSTATED)
    assert "model_args" in caught.value.hint


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("import no_such_package", "install no_such_package"),
        ("1 / 0", None),
        ("from os import nothing", "module:Class"),
    ],
)
def test_the_hint_is_about_what_kept_a_class_from_being_imported(tmp_path, source, hint):
    name = f"broken_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    with pytest.raises(ModelError, match="cannot be imported") as caught:
        loader(tmp_path, f"{name}:Net", SERVE_PYTHON_PATH=str(tmp_path))
    assert caught.value.hint == hint or hint in caught.value.hint


def test_a_store_file_that_is_gone_is_no_fault_of_the_checkpoint(tmp_path, trainer):
    gone = Stored(tmp_path / "gone", hashlib.sha256().hexdigest(), 0)
    with pytest.raises(FileNotFoundError):
        loader(tmp_path).load(gone, UNSTATED)


def test_what_still_hangs_is_not_begun_again_beside_itself(tmp_path, trainer):
    patient = loader(tmp_path, "affine:Stuck", SERVE_WARM_UP_TIMEOUT_S="0.2")
    first, other = (stored(trainer.train(seed, f"{seed}.safetensors")) for seed in (1, 2))
    with pytest.raises(TrialError, match="found it still running"):
        patient.load(first, UNSTATED)
    with pytest.raises(TrialError, match="an earlier warm-up of it still runs"):
        patient.load(first, UNSTATED)
    with pytest.raises(TrialError, match="found it still running"):
        patient.load(other, UNSTATED)  # a failure must not block what follows


def test_a_header_is_judged_where_it_lies(tmp_path, trainer):
    patient = loader(tmp_path)
    fitting, wider = trainer.train(1, "a.safetensors"), trainer.write("b.safetensors", {"x": numpy.ones(3, "float32")})
    patient.preview(wider, UNSTATED)  # before a module was built there is nothing to compare with
    patient.load(stored(fitting), UNSTATED)
    patient.preview(fitting, UNSTATED)
    zeros = trainer.work / "zeros"
    zeros.write_bytes(bytes(100))
    for path, code in ((wider, "architecture"), (zeros, "format")):
        with pytest.raises(CheckpointError) as caught:
            patient.preview(path, UNSTATED)
        assert caught.value.code == code


def test_the_judge_changes_with_the_code_beside_the_model(tmp_path):
    (tmp_path / "own.py").write_text("import helper")
    (tmp_path / "helper.py").write_text("")
    module = types.SimpleNamespace(__file__=str(tmp_path / "own.py"))
    environ = {"SERVE_MODEL": "own:Model", "SERVE_CHECKPOINTS": "ck"}
    settings = load_settings(environ, tmp_path).find()

    def judge():
        return judge_of(settings, None, {"own": module})

    before = judge()
    assert judge() == before
    (tmp_path / "helper.py").write_text("x = 1")
    assert judge() != before
