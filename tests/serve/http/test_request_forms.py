"""A request that is known by its bytes gets what the parser and the ordinary way would have given it, byte for byte."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from dataclasses import replace
from typing import ClassVar

import numpy
import pytest

torch = pytest.importorskip("torch", reason="torch is not in this interpreter")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from in_process import Worker  # noqa: E402

from serve.gateway.request_form import RequestForm  # noqa: E402
from serve.model import contract  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402


class Rows(torch.nn.Module):
    """Fails for 13, and gives infinities for very large numbers."""

    example_inputs: ClassVar = [[1.0, 2.0]]

    def __init__(self, scale):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([scale, 3.0]))

    def forward(self, rows):
        if bool((rows == 13).any()):
            raise RuntimeError("13")
        return rows * self.scale * 1e3


def predictor(tmp_path):
    stated = (
        load_settings({"SERVE_MODEL": "m:M", "SERVE_CHECKPOINTS": str(tmp_path)}, tmp_path).models[0].labels["stable"]
    )

    def make(generation):
        model = Rows(float(generation))
        connected = contract.connect(stated, model, model)
        outputs = tuple(replace(form, name="outputs") for form in connected.inputs)
        return replace(connected, can_batch=True, outputs=outputs)

    return make


@pytest.fixture(scope="module")
def make_predictor(tmp_path_factory):
    return predictor(tmp_path_factory.mktemp("model"))


NUMBERS = st.sampled_from([0.0, -0.0, 1.5, -2.25, 13.0, 1e37, 3.0, float("nan"), 7.0, 7.0])
TEXTS = st.sampled_from(["0", "1.5", "-2", "13", "1e37", "1e400", "7", "7.0", "", "x", "[1]", "true", " 3", "01", "-0"])
TRACES = st.sampled_from(
    [
        "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01",
        "00-" + "0" * 32 + "-" + "cd" * 8 + "-01",
        "cc",
        "01-" + "ab" * 16 + "-" + "12" * 8 + "-00",
    ]
)
HEADS = st.fixed_dictionaries(
    {},
    optional={
        "traceparent": TRACES,
        "X-Request-ID": st.sampled_from(["1", "22", "a-b", "é", "x" * 300]),
        "Accept-Encoding": st.just("gzip"),
        "X-Request-Timeout": st.sampled_from(["0.0000001", "9", "none"]),
        "Connection": st.sampled_from(["keep-alive", "close"]),
        "Content-Type": st.sampled_from(["application/json", "text/plain"]),
    },
)


def post(path, body, headers):
    lines = [f"POST {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body


@st.composite
def requests(draw, head):
    """A request with these headers, most likely one that looks like many others."""
    kind = draw(st.sampled_from(["binary", "binary", "json", "native", "native", "double", "odd"]))
    if kind in ("json", "native"):
        texts = draw(st.lists(TEXTS, min_size=2, max_size=2) if draw(st.booleans()) else st.just(["7", "-1.5"]))
        row = ", ".join(texts)
        if kind == "native":
            return post("/predict", f'{{"inputs": [[{row}]]}}'.encode(), head)
        tensor = f'{{"name": "inputs", "shape": [1, 2], "datatype": "FP32", "data": [{row}]}}'
        return post("/v2/models/M/infer", f'{{"inputs": [{tensor}]}}'.encode(), head)
    if kind == "odd":
        odd = [b'{"inputs": [[1, 2], [3, 4]]}', b'{"inputs": [1, 2]}', b"{", b'{"inputs": [[1,2]], "x": 1}', b""]
        return post("/predict", draw(st.sampled_from(odd)), head)
    rows = draw(st.sampled_from([1, 1, 1, 2]))
    numbers = draw(
        st.lists(NUMBERS, min_size=2 * rows, max_size=2 * rows) if draw(st.booleans()) else st.just([7.0, 2.0] * rows)
    )
    array = numpy.array(numbers, "<f8" if kind == "double" else "<f4").reshape(rows, 2)
    tensor = {"name": "inputs", "shape": [rows, 2], "datatype": "FP64" if kind == "double" else "FP32"}
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": draw(st.booleans())}}).encode()
    return post("/v2/models/M/infer", text + array.tobytes(), {**head, "Inference-Header-Content-Length": len(text)})


@st.composite
def turns(draw):
    """What happens in one turn of the loop: bytes for some connections, and something else at times."""
    found = []
    for number in draw(st.lists(st.integers(0, 3), min_size=1, max_size=5)):
        head = draw(HEADS if draw(st.integers(0, 3)) == 0 else st.just({"X-Request-ID": str(number)}))
        data = b"".join(draw(st.lists(requests(head), min_size=1, max_size=1 + (draw(st.integers(0, 5)) == 0))))
        cut = draw(st.integers(0, len(data)) if draw(st.integers(0, 5)) == 0 else st.just(0))
        found.append((number, [part for part in (data[:cut], data[cut:]) if part]))
    return found, draw(st.sampled_from([*["none"] * 12, "swap", "vacate", "apart", "shutdown", "eof", "drain"]))


TOML = ["", "", "max_queue = 1\n", "batch_check_share = 1.0\n", "max_batch_size = 1\n", "max_batch_size = 2\n"]
TOML += ["request_timeout_s = 5\n", 'cors_origins = ["*"]\n', 'access_log = "on"\n', "max_body_bytes = 45\n"]


def happen(worker, event):
    instance = next(worker.server.instances)
    if event in ("swap", "vacate"):
        worker.swap(event == "vacate")
    elif event == "apart":
        instance.batching.end(worker.generation)
    elif event == "shutdown":
        for one in worker.connections.values():
            one.shutdown()
    elif event == "eof":
        for one in worker.connections.values():
            if not one.transport.closed and not one.eof_received():
                one.transport.close()
    elif event == "drain":
        worker.server.telemetry.drain.begin()


async def play(worker, script):
    for found, event in script:
        for place in range(2):
            for number, parts in found:
                if place < len(parts):
                    one = worker.connection(number)
                    one.data_received(parts[place])
            if place == 0:
                happen(worker, event)
        await worker.settle()
    worker.scheduler.close()
    return worker.seen()


def masked(seen):
    """The same without times."""
    written, *rest = seen
    return [(number, re.sub(rb"after 0\.\d+ s", b"after t s", data)) for number, data in written], *rest


def both(directory, toml, make, script):
    async def run(remembers):
        worker = Worker(directory / str(remembers), toml, make, remembers)
        return masked(await play(worker, script))

    return asyncio.run(run(True)), asyncio.run(run(False))


FORMED = []
NUMBER = itertools.count()


@pytest.fixture(autouse=True)
def count_formed(monkeypatch):
    take = RequestForm.take

    def counting(form, request, is_alone):
        FORMED.append(take(form, request, is_alone))
        return FORMED[-1]

    monkeypatch.setattr(RequestForm, "take", counting)
    FORMED.clear()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(TOML), st.lists(turns(), min_size=2, max_size=12))
def test_known_by_its_bytes_or_parsed_the_answer_is_the_same(tmp_path_factory, make_predictor, toml, script):
    directory = tmp_path_factory.mktemp(f"forms{next(NUMBER)}")
    remembered, parsed = both(directory, toml, make_predictor, script)
    for one, other in zip(remembered, parsed):
        assert one == other
    assert all(not leases for leases in remembered[-1])


def test_the_second_request_of_a_connection_teaches_and_the_third_is_known(tmp_path, make_predictor):
    script = [
        ([(0, [post("/predict", b'{"inputs": [[%d, 2]]}' % number, {"X-Request-ID": number})])], "none")
        for number in range(9)
    ]
    remembered, parsed = both(tmp_path, "", make_predictor, script)
    assert remembered == parsed
    assert FORMED == [True] * 7
