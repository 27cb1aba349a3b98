"""What threads might meet half done: tables of the standard library, and peers that hang up."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import pytest

from envtool.mirrors.mirrors import Mirrors
from envtool.solve.repodata_proxy import RepodataProxy
from tests.support.mirror_simulator import MirrorSimulator

FIND_UV_AT_ONCE = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from envtool.pypi import uv
sys.setswitchinterval(1e-6)
start = threading.Barrier(6)
def run():
    start.wait()
    return uv.run(["--version"])
with ThreadPoolExecutor(6) as pool:
    print({each.result().split()[0] for each in [pool.submit(run) for _ in range(6)]})
"""


def test_threads_that_need_uv_at_once() -> None:
    for _ in range(4):
        done = subprocess.run([sys.executable, "-c", FIND_UV_AT_ONCE], capture_output=True, text=True)
        assert done.stdout == "{'uv'}\n", done.stderr


def test_a_solver_that_hangs_up_is_no_fault(capfd: pytest.CaptureFixture[str]) -> None:
    canonical = "https://channel.invalid/"
    with MirrorSimulator() as mirror:
        mirror.put("linux-64/current_repodata.json", b"{" + b" " * 4_000_000 + b"}")
        relay = RepodataProxy(Mirrors({canonical: (mirror.url,)}, has_origin=False))
        place = urlsplit(relay.by_prefix[canonical][0])
        for count in (0, 1, 100_000):
            peer = socket.create_connection((place.hostname, place.port))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close resets
            peer.sendall(f"GET {place.path}linux-64/current_repodata.json HTTP/1.1\r\nHost: relay\r\n\r\n".encode())
            while count > 0:
                count -= len(peer.recv(count))
            peer.close()
    # The mirror's threads have ended with it; what is left are the relay's, which write to nobody.
    for each in threading.enumerate():
        if "process_request" in each.name:
            each.join(10)
    assert not list(relay.failures)
    assert "Traceback" not in capfd.readouterr().err
