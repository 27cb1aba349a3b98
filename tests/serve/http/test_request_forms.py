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
    [f"00-{'ab' * 16}-{'cd' * 8}-01"] * 4
    + [f"00-{'12' * 16}-{'34' * 8}-00", f"00-{'0' * 32}-{'cd' * 8}-01", "c", f"01-{'ab' * 16}-{'12' * 8}-00"]
)
IDS = st.sampled_from(["1", "22", "333", "a-b", "a b", "é", "a\x01b", "a\tb", "x" * 300, "", "1\rX: y"])
FIXED = st.sampled_from(
    [{}] * 4
    + [{"Accept-Encoding": "gzip"}, {"X-Request-Timeout": "0.0000001"}, {"X-Request-Timeout": "9"}]
    + [{"Connection": "keep-alive"}, {"Connection": "close"}, {"Content-Type": "application/json"}]
)
EVENTS = st.sampled_from([*["none"] * 9, "swap", "swap", "vacate", "apart", "shutdown", "eof", "drain"])
ERRORS = st.sampled_from([*[0] * 20, 1, -1])  # of the stated length
KINDS = ("binary", "wide", "json", "native", "double")


def post(path, body, headers, error=0):
    lines = [f"POST {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body) + error}", "", ""]).encode("latin-1") + body


@st.composite
def requests(draw, kind, fixed):
    """A request of a kind, most likely one that is like many others of it."""
    is_odd = draw(st.integers(0, 3)) == 0
    head = {"traceparent": draw(TRACES), "X-Request-ID": draw(IDS if is_odd else st.just("7")), **fixed}
    if draw(st.integers(0, 15)) == 0:
        odd = [b'{"inputs": [[1, 2], [3, 4]]}', b'{"inputs": [1, 2]}', b"{", b'{"inputs": [[1,2]], "x": 1}', b""]
        return post("/predict", draw(st.sampled_from(odd)), head)
    if kind in ("json", "native"):
        row = ", ".join(draw(st.lists(TEXTS, min_size=2, max_size=2)) if is_odd else ["7", "-1.5"])
        if kind == "native":
            return post("/predict", f'{{"inputs": [[{row}]]}}'.encode(), head, draw(ERRORS))
        tensor = f'{{"name": "inputs", "shape": [1, 2], "datatype": "FP32", "data": [{row}]}}'
        return post("/v2/models/M/infer", f'{{"inputs": [{tensor}]}}'.encode(), head)
    rows = 600 if kind == "wide" else draw(st.sampled_from([1, 1, 1, 2]))
    numbers = draw(st.lists(NUMBERS, min_size=2, max_size=2)) if is_odd else [7.0, 2.0]
    array = numpy.array(numbers * rows, "<f8" if kind == "double" else "<f4").reshape(rows, 2)
    tensor = {"name": "inputs", "shape": [rows, 2], "datatype": "FP64" if kind == "double" else "FP32"}
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": kind != "double"}}).encode()
    error = draw(ERRORS)
    return post(
        "/v2/models/M/infer", text + array.tobytes(), {**head, "Inference-Header-Content-Length": len(text)}, error
    )


@st.composite
def scripts(draw):
    """What happens, turn by turn: bytes for some connections, before and after something else that happens at times."""
    families = draw(st.lists(st.tuples(st.sampled_from(KINDS), FIXED), min_size=3, max_size=3))
    script = []
    for _ in range(draw(st.integers(3, 12))):
        turn = []
        for number in draw(st.lists(st.integers(0, 3), min_size=2, max_size=6)):
            family = families[number % 3 if draw(st.integers(0, 7)) else 0]
            data = b"".join(draw(st.lists(requests(*family), min_size=1, max_size=1 + (draw(st.integers(0, 9)) == 0))))
            cuts = st.integers(0, len(data)) if draw(st.integers(0, 7)) == 0 else st.sampled_from([0, len(data)])
            cut = draw(cuts)
            turn.append((number, (data[:cut], data[cut:])))
        script.append((turn, draw(EVENTS)))
    return script


TOML = ["", "", "max_queue = 1\n", "batch_check_share = 1.0\n", "max_batch_size = 1\n", "max_batch_size = 2\n"]
TOML += ["request_timeout_s = 5\n", 'cors_origins = ["*"]\n', 'access_log = "on"\n', "max_body_bytes = 24\n"]


def happen(worker, event):
    instance = next(worker.server.instances)
    if event in ("swap", "vacate"):
        worker.swap(event == "vacate")
    elif event == "apart":
        instance.shared_state.unbatched = worker.generation
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
                if parts[place]:
                    worker.connection(number).data_received(parts[place])
            if place == 0:
                happen(worker, event)
        await worker.settle()
    worker.scheduler.close()
    return worker.seen()


def masked(seen):
    """The same without times, and with the names of headers in one case: what waits in a pipeline goes another way."""
    written, *rest = seen

    def mask(data):
        data = re.sub(rb"after 0\.\d+ s", b"after t s", data)
        return re.sub(rb"(?m)^[A-Za-z0-9-]+(?=: )", lambda found: found[0].lower(), data)

    return [(number, mask(data)) for number, data in written], *rest


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


def assert_same_answer(directory, make, toml, script):
    remembered, parsed = both(directory, toml, make, script)
    for one, other in zip(remembered, parsed):
        assert one == other
    assert all(not leases for leases in remembered[-1])


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(TOML), scripts())
def test_known_by_its_bytes_or_parsed_the_answer_is_the_same(tmp_path_factory, make_predictor, toml, script):
    assert_same_answer(tmp_path_factory.mktemp(f"forms{next(NUMBER)}"), make_predictor, toml, script)


@pytest.mark.nightly
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(TOML), scripts())
def test_the_same_for_long(tmp_path_factory, make_predictor, toml, script):
    assert_same_answer(tmp_path_factory.mktemp(f"forms{next(NUMBER)}"), make_predictor, toml, script)


def test_the_second_request_of_a_connection_teaches_and_the_third_is_known(tmp_path, make_predictor):
    script = [
        ([(0, (post("/predict", b'{"inputs": [[%d, 2]]}' % number, {"X-Request-ID": number}), b""))], "none")
        for number in range(9)
    ]
    remembered, parsed = both(tmp_path, "", make_predictor, script)
    assert remembered == parsed
    assert FORMED == [True] * 7


@pytest.mark.parametrize(("before", "event"), [(1, "none"), (2, "none"), (3, "none"), (1, "eof"), (2, "eof")])
@pytest.mark.parametrize(
    ("faulty", "status"),
    [
        (b"\x01 / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: a\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: more\r\n\r\n", 417),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_a_refusal_follows_the_answers_to_what_came_before(tmp_path, make_predictor, before, event, faulty, status):
    data = post("/predict", b'{"inputs": [[7, 2]]}', {}) * before
    after = post("/predict", b'{"inputs": [[7, 2]]}', {})
    rest = after if event == "none" else b""
    remembered, parsed = both(tmp_path, "", make_predictor, [([(0, (data + faulty + after, rest))], event)])
    assert remembered == parsed
    ((_, written),) = parsed[0]
    assert [int(line[:3]) for line in written.split(b"HTTP/1.1 ")[1:]] == [200] * before + [status]


@pytest.mark.parametrize("event", ["swap", "vacate", "drain", "apart"])
def test_what_happens_between_two_requests_of_a_bundle_counts_for_the_second(tmp_path, make_predictor, event):
    data = post("/predict", b'{"inputs": [[7, 2]]}', {})
    known = [([(number, (data, b"")) for number in range(2)], "none")] * 3
    last = [([(0, (data, b"")), (1, (b"", data))], event)]
    remembered, parsed = both(tmp_path, "", make_predictor, known + last)
    assert remembered == parsed
    assert len(FORMED) >= 3
