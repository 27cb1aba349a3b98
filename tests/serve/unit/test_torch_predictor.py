"""From requests to tensors and back, and how a model is tried."""

from __future__ import annotations

from typing import ClassVar

import numpy
import pytest

torch = pytest.importorskip("torch", reason="torch is not in this interpreter; run these in the created environment")

from serve.errors import InputError, ModelError  # noqa: E402
from serve.model import contract  # noqa: E402 - they bring torch
from serve.model.warm_up import describe_outputs  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402


class Rows(torch.nn.Module):
    example_inputs: ClassVar = [[1.0, 2.0], [3.0, 4.0]]

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, rows):
        return rows * self.scale


class Named(torch.nn.Module):
    example_inputs: ClassVar = {"ids": [[1, 2]], "mask": [[True, False]]}

    def forward(self, ids, mask):
        return {"sum": (ids * mask).sum(1), "ids": ids}


class Texts:
    example_inputs: ClassVar = ["one", "three"]

    def build_module(self):
        return torch.nn.Linear(1, 1)

    def inputs_to_tensors(self, inputs):
        return torch.tensor([[float(len(text))] for text in inputs])

    def tensors_to_outputs(self, given):
        return [f"{value:.1f}" for (value,) in given.tolist()]


class Tokens(torch.nn.Module):
    example_inputs: ClassVar = [[1, 2]]

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(3, 1)

    def forward(self, rows):
        return self.table(rows)


class Flat(torch.nn.Module):
    """Cannot run without rows: torch does not know what -1 is then."""

    example_inputs: ClassVar = [[[1.0, 2.0], [3.0, 4.0]]]

    def forward(self, rows):
        return rows.view(rows.shape[0], -1), rows.sum((1, 2))


class Mean(Rows):
    def forward(self, rows):
        return rows.mean()


class Careless(Texts):
    """Converts without a look at what it gets."""

    def inputs_to_tensors(self, inputs):
        return torch.tensor([[float(text.count("e"))] for text in inputs])


@pytest.fixture
def connect(tmp_path):
    settings = load_settings({"SERVE_MODEL": "m:M", "SERVE_CHECKPOINTS": "ck"}, tmp_path).find()

    def make(built):
        return contract.connect(settings, built, contract.build_module(settings, built))

    return make


def test_arrays_and_lists_give_the_same(connect):
    rows = connect(Rows())
    taken = rows.prepare_arrays({"inputs": numpy.array([[1, 2]], "float32")})
    assert rows.postprocess(rows.run(taken)) == rows.predict([[1, 2]]) == [[2, 6]]
    assert rows.postprocess_arrays(rows.run(taken))["outputs"].tolist() == [[2, 6]]
    assert [vars(form) for form in rows.inputs] == [{"name": "inputs", "dtype": "float32", "shape": (None, 2)}]


def test_an_array_of_the_modules_type_is_not_copied(connect):
    array = numpy.zeros((1, 2), "float32")
    taken = connect(Rows()).prepare_arrays({"inputs": array})
    array[0, 0] = 7
    assert taken[0, 0] == 7


@pytest.mark.parametrize(
    "array",
    [
        numpy.zeros((1, 3), "float32"),
        numpy.zeros((1, 0), "float32"),
        numpy.zeros(2, "float32"),
        numpy.zeros((1, 2), "complex64"),
        numpy.array([["a", "b"]]),
        numpy.array([[numpy.nan, 0]], "float32"),
        numpy.array([[1e300, 0]], "float64"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_arrays_that_do_not_fit(connect, array):
    with pytest.raises(InputError, match="expected"):
        connect(Rows()).prepare_arrays({"inputs": array})


@pytest.mark.parametrize(
    "inputs",
    [
        {"ids": numpy.array([[1, 2**63]], "uint64"), "mask": numpy.array([[True, False]])},
        {"ids": [[1, 2]], "mask": [[1, 5]]},
        {"ids": [[1, 2**63]], "mask": [[True, False]]},
    ],
)
def test_whole_numbers_that_do_not_fit_are_not_wrapped(connect, inputs):
    named = connect(Named())
    take = named.prepare if isinstance(inputs["ids"], list) else named.prepare_arrays
    with pytest.raises(InputError, match="expected"):
        take(inputs)


@pytest.mark.parametrize(
    ("built", "inputs", "shapes"),
    [
        (Rows(), [], {"outputs": (0, 2)}),
        (Rows().bfloat16(), [], {"outputs": (0, 2)}),
        (Flat(), [], {"outputs_0": (0, 4), "outputs_1": (0,)}),
        (Named(), {"ids": [], "mask": []}, {"sum": (0,), "ids": (0, 2)}),
        (Tokens(), [], {"outputs": (0, 2, 1)}),
        (torch.nn.LSTM(2, 3, batch_first=True), [], None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_rows_give_no_rows(connect, built, inputs, shapes):
    built.example_inputs = getattr(built, "example_inputs", [[[1.0, 2.0]]])
    predictor = connect(built)
    given = predictor.run(predictor.prepare(inputs))
    if shapes is None:  # the state of an LSTM has its rows in another dimension, and is one layer
        assert given[0].shape == (0, 1, 3)
    else:
        assert {name: array.shape for name, array in predictor.postprocess_arrays(given).items()} == shapes


def test_no_rows_of_a_module_whose_outputs_are_no_rows(connect):
    predictor = connect(Mean())
    with pytest.raises(InputError, match="expected at least one row"):
        predictor.run(predictor.prepare([]))


def test_arrays_of_other_names(connect):
    with pytest.raises(InputError, match="expected inputs, found x"):
        connect(Rows()).prepare_arrays({"x": numpy.zeros((1, 2), "float32")})


def test_several_named_inputs(connect):
    named = connect(Named())
    assert named.predict({"ids": [[1, 2], [3, 4]], "mask": [[True, False], [True, True]]})["sum"] == [1, 7]
    assert [(form.name, form.dtype) for form in named.inputs] == [("ids", "int64"), ("mask", "bool")]
    for inputs in ({"ids": [[1, 2]]}, [[1, 2]], {"ids": [[1, 2]], "mask": [[True, False]] * 2}):
        with pytest.raises(InputError, match="expected"):
            named.predict(inputs)


def test_a_class_that_converts_takes_arrays_of_texts(connect):
    texts = connect(Texts())
    with torch.no_grad():
        texts.module.weight.fill_(2)
        texts.module.bias.fill_(0)
    taken = texts.prepare_arrays({"inputs": numpy.array(["ab", "abcd"], object)})
    assert texts.postprocess_arrays(texts.run(taken))["outputs"].tolist() == ["4.0", "8.0"]
    assert [vars(form) for form in texts.inputs] == [{"name": "inputs", "dtype": "text", "shape": (None,)}]
    assert [vars(form) for form in describe_outputs(texts, [texts.run(taken)])] == [
        {"name": "outputs", "dtype": "text", "shape": (None,)}
    ]


def test_joined_requests_are_answered_as_alone(connect):
    named = connect(Named())
    several = [
        {"ids": [[1, 2]], "mask": [[True, True]]},
        {"ids": [[3, 4], [5, 6]], "mask": [[True, False], [False, True]]},
    ]
    taken = [named.prepare(inputs) for inputs in several]
    assert named.batch_key(taken[0]) == named.batch_key(taken[1])
    parts = named.split(named.run(named.stack(taken)), [named.count_rows(each) for each in taken])
    assert [named.postprocess(part) for part in parts] == [named.predict(inputs) for inputs in several]


def test_what_nothing_can_be_joined_to_has_no_rows(connect):
    rows = connect(Rows())
    pair = torch.nn.utils.rnn.pack_sequence([torch.ones(2, 1)])
    for taken in ((torch.ones(2, 1), torch.ones(3, 1)), [torch.ones(2, 1)], pair, {"a": torch.ones(2), "b": 1}, None):
        assert rows.count_rows(taken) == 0
    assert rows.count_rows((torch.ones(2, 1), numpy.ones((2, 3)))) == 2


def test_an_example_that_is_no_numbers(connect):
    class Worded(Rows):
        example_inputs = "words"

    with pytest.raises(ModelError, match="example_inputs"):
        connect(Worded())


def test_values_that_the_model_does_not_know(connect):
    predictor = connect(Tokens())
    with pytest.raises(InputError, match="expected values that the model knows"):
        predictor.run(predictor.prepare([[1, 3]]))


@pytest.mark.parametrize("inputs", [[1], [None], 7, {"e": 1, 2: 3}])
def test_conversions_that_look_at_nothing(connect, inputs):
    with pytest.raises(InputError, match="the inputs"):
        connect(Careless()).prepare(inputs)


class Lengths(torch.nn.Module):
    """Takes sequences of any length."""

    example_inputs: ClassVar = {"ids": [[1, 2, 3]], "mask": [[1, 1, 0]]}
    dynamic_axes: ClassVar = {"ids": {1: "length"}, "mask": {1: "length"}}

    def forward(self, ids, mask):
        return {"each": ids * mask, "sum": (ids * mask).sum(1)}


def test_lengths_that_are_open(connect):
    predictor = connect(Lengths())
    assert [form.shape for form in predictor.inputs] == [(None, None)] * 2
    assert predictor.predict({"ids": [[1, 2, 3, 4, 5]], "mask": [[1, 0, 0, 0, 1]]})["sum"] == [6]
    arrays = {"ids": numpy.ones((2, 7), "int64"), "mask": numpy.ones((2, 7), "int64")}
    assert predictor.postprocess(predictor.run(predictor.prepare_arrays(arrays)))["sum"] == [7, 7]
    given = [predictor.run(predictor.prepare(inputs)) for inputs in (Lengths.example_inputs, servable_lengths())]
    assert [form.shape for form in describe_outputs(predictor, given)] == [(None, None), (None,)]
    for ids, mask in (([[1, 2]], [[1]]), ([[]], [[]]), ([1], [1]), ([[1, 2], [1]], [[1, 1], [1]])):
        with pytest.raises(InputError, match="expected"):
            predictor.predict({"ids": ids, "mask": mask})


def servable_lengths():
    return {name: [[*rows[0], 1]] for name, rows in Lengths.example_inputs.items()}


def test_a_sole_input_and_one_that_is_converted_have_open_lengths_too(connect):
    class Sole(Rows):
        dynamic_axes: ClassVar = {"inputs": [1]}

        def forward(self, rows):
            return rows.sum(1)

    class Converted(Texts):
        example_inputs: ClassVar = [[1.0, 2.0]]
        dynamic_axes: ClassVar = {"inputs": [1]}

    predictor = connect(Sole())
    assert predictor.predict([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]) == [6, 3]
    assert predictor.expected_shape == (None, None)
    assert connect(Converted()).inputs[0].shape == (None, None)


@pytest.mark.parametrize("axes", [{"other": [1]}, {"inputs": [0]}, {"inputs": ["1"]}, [1], 7, {"inputs": 1}])
def test_open_lengths_that_are_said_wrongly(connect, axes):
    class Wrong(Rows):
        dynamic_axes = axes

    with pytest.raises(ModelError, match="dynamic_axes"):
        connect(Wrong())
