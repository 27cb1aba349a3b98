"""Spans reach a collector; a real HTTP server takes them here."""

from __future__ import annotations

import http.server
import threading

import pytest

from serve.events.event_log import Event
from serve.observability.spans import Spans, TraceParent

PARENT = TraceParent("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "01")


@pytest.fixture
def collector():
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, received
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_request_is_a_span_of_its_callers_trace(collector, monkeypatch):
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    port, received = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    spans = Spans()
    span = spans.begin("POST", "/predict/<name>", "/predict/m", PARENT)
    place = spans.place_of(span)
    assert (place.trace_id, place.flags) == (PARENT.trace_id, PARENT.flags)
    assert place.span_id != PARENT.span_id
    spans.end(span, 500, {"sha256": "ab"})
    spans.stop()
    ((path, body),) = received
    assert path == "/v1/traces"
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    (told,) = resource.scope_spans[0].spans
    assert (told.trace_id.hex(), told.span_id.hex()) == (PARENT.trace_id, place.span_id)
    assert told.parent_span_id.hex() == PARENT.span_id
    stated = {one.key: one.value.string_value or one.value.int_value for one in told.attributes}
    assert (stated["http.response.status_code"], stated["envserve.sha256"]) == (500, "ab")
    assert (told.name, stated["http.route"], stated["url.path"]) == (
        "POST /predict/<name>",
        "/predict/<name>",
        "/predict/m",
    )
    assert told.status.code == told.status.STATUS_CODE_ERROR
    named = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert named["service.name"] == "envserve"


def test_a_request_without_a_trace_begins_one(monkeypatch):
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    spans = Spans()
    place = spans.place_of(spans.begin("GET", "/", "/", None))
    assert int(place.trace_id, 16)
    assert int(place.span_id, 16)


def test_a_swap_is_a_span_with_its_phases(collector, monkeypatch):
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    port, received = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    spans = Spans()
    spans.note(Event("swapped", {"generation": 7, "load_s": 0.25, "warm_up_s": 0.5, "commit_s": 0.0, "previous": None}))
    spans.note(Event("returned", {"generation": 8, "reason": "finite: 7 of 9", "seconds": 2.0}))
    spans.note(Event("prepared", {"generation": 9}))
    spans.stop()
    ((_, body),) = received
    found = [
        one for scope in ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans for one in scope.spans
    ]
    by_name = {one.name: one for one in found}
    swap, load, back = by_name["swap"], by_name["load"], by_name["trial taken back"]
    assert set(by_name) == {"swap", "copy", "hash", "load", "warm_up", "commit", "trial taken back"}
    assert load.parent_span_id == by_name["warm_up"].parent_span_id == swap.span_id
    assert load.end_time_unix_nano - load.start_time_unix_nano == 250_000_000
    assert swap.end_time_unix_nano - swap.start_time_unix_nano == 750_000_000
    assert back.end_time_unix_nano - back.start_time_unix_nano == 2_000_000_000
    assert back.status.code == back.status.STATUS_CODE_ERROR
