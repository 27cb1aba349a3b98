"""What a model class keeps of a request is named, wherever it hangs; where it reaches an answer, it is refused."""

from __future__ import annotations

import collections
import time
from typing import ClassVar

import pytest

torch = pytest.importorskip("torch", reason="torch is not in this interpreter; run these in the created environment")

from torch import nn  # noqa: E402

from serve.errors import CheckpointError  # noqa: E402
from serve.model import contract, tensors, torch_predictor  # noqa: E402 - they bring torch
from serve.model.request_state import Untouched, Versions  # noqa: E402
from serve.model.trial import Examiner  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402

LAST: list[str] = []


class Texts(nn.Module):
    """Scores texts; those below keep the texts somewhere for the answer."""

    example_inputs: ClassVar = ["abc", "de"]

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def inputs_to_tensors(self, inputs):
        self.keep(list(inputs))
        return torch.tensor([[float(sum(map(ord, text)))] for text in inputs])

    def keep(self, texts):
        pass

    def kept(self, count):
        return [""] * count

    def forward(self, x):
        return self.layer(x)

    def tensors_to_outputs(self, y):
        return [{"text": text, "score": score} for text, score in zip(self.kept(len(y)), y[:, 0].tolist())]


class OnSelf(Texts):
    def keep(self, texts):
        self.texts = texts

    def kept(self, count):
        return self.texts


class InAList(Texts):
    def __init__(self):
        super().__init__()
        self.queue = collections.deque(maxlen=3)

    def keep(self, texts):
        self.queue.append(texts)

    def kept(self, count):
        return self.queue[-1]


class OnAHelper(Texts):
    def __init__(self):
        super().__init__()
        self.context = type("Context", (), {})()

    def keep(self, texts):
        self.context.texts = texts

    def kept(self, count):
        return self.context.texts


class OnTheModule(Texts):
    def keep(self, texts):
        self.layer.texts = texts

    def kept(self, count):
        return self.layer.texts


class OnTheClass(Texts):
    def keep(self, texts):
        OnTheClass.texts = texts

    def kept(self, count):
        return OnTheClass.texts


class InAGlobal(Texts):
    def keep(self, texts):
        LAST[:] = texts

    def kept(self, count):
        return list(LAST)


class Lengths(Texts):
    """Keeps a tensor, and only a number of the answer tells."""

    def keep(self, texts):
        self.lengths = torch.tensor([len(text) for text in texts])

    def kept(self, count):
        return [sum(map(int, self.lengths))] * count


class FromRun(nn.Module):
    """Keeps what it computed for the answer's second part."""

    example_inputs: ClassVar = [[1.0, 2.0]]

    def forward(self, x):
        self.attention = x.softmax(1)
        return x * 2

    def tensors_to_outputs(self, y):
        return {"y": y.tolist(), "attention": self.attention.tolist()}


class Smoothed(nn.Module):
    """Answers with a part of what was asked before."""

    example_inputs: ClassVar = [[1.0, 2.0]]

    def __init__(self):
        super().__init__()
        self.before = None

    def forward(self, x):
        before, self.before = self.before, x
        return x if before is None else x + 0.1 * before


class Remembering(nn.Module):
    """Answers all requests with what the first ones left, or each with what all before have left."""

    def __init__(self, how, example=((1.0, 2.0),)):
        super().__init__()
        self.layer, self.how, self.example_inputs = nn.Linear(2, 2), how, [list(row) for row in example]
        self.cache, self.hidden, self.count, self.first = {}, None, 0, None
        self.register_buffer("table", None, persistent=False)

    def forward(self, x):
        y = self.layer(x.float())
        if self.how == "self.cache":
            return self.cache.setdefault(tuple(x.shape), y)
        if self.how == "self.hidden":
            y = y if self.hidden is None or len(self.hidden) != len(y) else y + self.hidden
            self.hidden = y
        elif self.how == "self.count":
            self.count += 1
            return y + self.count
        elif self.how == "self.first":
            self.first = x.float()[0, 0] if self.first is None else self.first
            return y - self.first
        elif self.how == "self.table":
            self.table = y[:1] if self.table is None else self.table
            return y - self.table
        return y


def examine(tmp_path, built):
    torch_predictor.limit_threads(1)
    settings = load_settings({"SERVE_MODEL": "m:M", "SERVE_CHECKPOINTS": "ck"}, tmp_path).find()
    module = contract.build_module(settings, built)
    tensors.freeze(module)
    predictor = contract.connect(settings, built, module)
    versions, untouched = Versions(module), Untouched(built, module)
    predictor.predict(built.example_inputs)
    return Examiner(built, predictor, built.example_inputs, (), versions, 32, 60.0, untouched).examine()


@pytest.mark.parametrize(
    ("built", "name"),
    [
        (OnSelf, "self.texts"),
        (InAList, "self.queue"),
        (OnAHelper, "self.context"),
        (OnTheModule, "module.layer.texts"),
        (OnTheClass, "OnTheClass.texts"),
        (InAGlobal, "test_state.LAST"),
        (Lengths, "self.lengths"),
        (FromRun, "self.attention"),
        (Smoothed, "self.before"),
    ],
)
def test_a_model_that_answers_with_what_another_request_left_is_refused(tmp_path, built, name):
    with pytest.raises(CheckpointError) as caught:
        examine(tmp_path, built())
    assert caught.value.code == "state"
    assert name in caught.value.message


@pytest.mark.parametrize("how", ["self.cache", "self.hidden", "self.count", "self.first", "self.table"])
@pytest.mark.parametrize("example", [((1.0, 2.0),), ((1.0, 2.0), (0.5, 3.0)), ((1, 2),)])
def test_a_model_that_answers_otherwise_than_one_that_was_never_asked_is_refused(tmp_path, how, example):
    built = Remembering(how, example)
    with pytest.raises(CheckpointError, match=how) as caught:
        examine(tmp_path, built)
    assert caught.value.code == "state"
    assert examine(tmp_path, Remembering("", example)).kept == ()


def test_what_was_set_back_for_the_trial_is_there_again(tmp_path):
    class Lazy(Remembering):
        def forward(self, x):
            self.cache.setdefault("rows", []).append(len(x))
            return self.layer(x)

    built = Lazy("")
    assert examine(tmp_path, built).kept == ("self.cache",)
    assert len(built.cache["rows"]) > 3


def test_a_model_that_sets_the_seed_of_the_process_runs_one_request_at_a_time(tmp_path):
    class Seeding(Remembering):
        def forward(self, x):
            torch.manual_seed(0)
            return self.layer(x) + torch.rand(2)

    assert examine(tmp_path, Seeding("")).kept == ("torch.manual_seed",)


def test_what_reaches_no_answer_is_named(tmp_path):
    class Watched(FromRun):
        def tensors_to_outputs(self, y):
            return y.tolist()

    class Counted(Texts):
        count = 0

        def keep(self, texts):
            self.count += 1

    assert examine(tmp_path, Watched()).kept == ("self.attention",)
    assert examine(tmp_path, Counted()).kept == ("self.count",)
    assert examine(tmp_path, Texts()).kept == ()


def test_chance_and_caches_are_no_state(tmp_path):
    class Sampling(Texts):
        def forward(self, x):
            return self.layer(x) + torch.rand(1)

    class Cached(Texts):
        def __init__(self):
            super().__init__()
            self.cache = {}

        def forward(self, x):
            if "scale" not in self.cache:
                self.cache["scale"] = torch.ones(1)
            return self.layer(x) * self.cache["scale"]

    assert examine(tmp_path, Sampling()).kept == ()
    assert examine(tmp_path, Cached()).kept == ()


def test_large_and_circular_objects_are_looked_at_briefly(tmp_path):
    class Large(Texts):
        def __init__(self):
            super().__init__()
            self.words = {str(number): [[{"n": number}] * 60] * 60 for number in range(50_000)}
            self.words["self"] = self.words

    started_s = time.process_time()
    assert examine(tmp_path, Large()).kept == ()
    assert time.process_time() - started_s < 20


class Drifting(nn.Module):
    example_inputs: ClassVar = [[1.0, 2.0]]

    def __init__(self, how="in place", persistent=True):
        super().__init__()
        self.layer, self.how = nn.Linear(2, 2), how
        self.register_buffer("seen", torch.zeros(()), persistent=persistent)

    def forward(self, x):
        if self.how == "in place":
            self.seen += 1
        elif self.how == "replaced":
            self.seen = self.seen + 1
        elif self.how == "data":
            self.seen.data.add_(1)
        elif self.how == "parameter":
            self.layer.weight.mul_(0.999)
        elif self.how == "parameter's data":
            self.layer.bias.data += 1e-6
        return self.layer(x)


@pytest.mark.parametrize("how", ["in place", "replaced", "data", "parameter", "parameter's data"])
@pytest.mark.parametrize("persistent", [True, False])
def test_weights_that_answering_changes_are_named(tmp_path, how, persistent):
    name = {"parameter": "layer.weight", "parameter's data": "layer.bias"}.get(how, "seen")
    assert examine(tmp_path, Drifting(how, persistent)).written == (name,)
    assert examine(tmp_path, Drifting("", persistent)).written == ()


def test_what_is_written_later_is_found_and_tables_may_grow():
    class Growing(Drifting):
        def forward(self, x):
            if len(x) > self.table.numel():
                self.table = torch.zeros(len(x))
            return super().forward(x)

    module = Growing("")
    module.register_buffer("table", torch.zeros(1), persistent=False)
    versions = Versions(module)
    with torch.inference_mode():
        module(torch.zeros(5, 2))
        assert versions.written() == []
        module.how = "in place"
        module(torch.zeros(5, 2))
        assert versions.written() == ["seen"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_module_has_versions_too():
    module = torch.jit.script(nn.BatchNorm1d(2))
    versions = Versions(module)
    module.eval()
    module(torch.randn(4, 2))
    assert versions.written() == []
    module.train()
    module(torch.randn(4, 2))
    assert versions.written() == ["num_batches_tracked", "running_mean", "running_var"]
