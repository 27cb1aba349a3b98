from __future__ import annotations

import http.server
import json
import threading
import time

import pytest

from serve.events.event_log import Event
from serve.events.webhook import Webhook

EVENT = Event("swapped", {})
LINE = EVENT.line


def wait_for(find):
    until = time.monotonic() + 30
    while not find():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def failures():
    return []


def test_a_command_gets_the_line(tmp_path, failures):
    hook = Webhook(f"tee -a '{tmp_path}/with space'", failures.append)
    hook.put(EVENT)
    hook.put(EVENT)
    wait_for(lambda: (tmp_path / "with space").exists() and (tmp_path / "with space").read_bytes() == 2 * LINE)
    assert failures == []


def test_a_url_gets_a_post(failures):
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        Webhook(f"http://127.0.0.1:{server.server_port}/x", failures.append).put(EVENT)
        wait_for(lambda: got)
        server.shutdown()
    assert got == [("application/json", LINE)]
    assert json.loads(got[0][1])["event"] == "swapped"


@pytest.mark.parametrize("target", ["false", "/no/such/command", "http://127.0.0.1:1/"])
def test_a_failure_is_told_once(target, failures):
    hook = Webhook(target, failures.append)
    for _ in range(3):
        hook.put(EVENT)
    wait_for(lambda: failures and hook._lines.empty())
    assert len(failures) == 1


def test_a_hook_that_hangs_delays_nobody(failures):
    hook = Webhook("sleep 60", failures.append, timeout_s=1.0)
    started = time.monotonic()
    for _ in range(1500):
        hook.put(EVENT)
    assert time.monotonic() - started < 1.0
    assert failures == ["more than 1000 events wait; some were dropped"]
    wait_for(lambda: len(failures) > 1)
    assert "TimeoutExpired" in failures[1]
