"""Real etcd, of Debian's package, on the loopback."""

from __future__ import annotations

import collections
import fcntl
import http.client
import http.server
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tests.support import debian  # noqa: E402 - found by the line above


def find_etcd() -> str:
    """Return the program; skip the test where it cannot be had."""
    found = shutil.which("etcd")
    place = ROOT / ".cache" / "etcd"
    with (Path(tempfile.gettempdir()) / f"envserve-tests-etcd-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests in other processes want it too
        program = Path(found) if found else debian.unpack(place, "etcd-server") / "usr" / "bin" / "etcd"
    if not program.exists():
        pytest.skip("no etcd: apt-get install etcd-server")
    return str(program)


def free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


class Cluster:
    """Some nodes of etcd.

    Args:
        options: of every node, for example of TLS.
    """

    def __init__(self, directory: Path, nodes: int = 1, scheme: str = "http", options: tuple[str, ...] = ()) -> None:
        self._program, self._directory, self._options = find_etcd(), directory, options
        self.clients = [f"{scheme}://127.0.0.1:{port}" for port in free_ports(nodes)]
        self._peers = [f"http://127.0.0.1:{port}" for port in free_ports(nodes)]
        self.processes = [self._start(index) for index in range(nodes)]

    @property
    def address(self) -> str:
        """As the setting `fleet` has it."""
        return f"etcd:{','.join(self.clients)}/tests"

    def _start(self, index: int) -> subprocess.Popen:
        cluster = ",".join(f"n{number}={peer}" for number, peer in enumerate(self._peers))
        urls = {
            "listen-client-urls": self.clients[index],
            "advertise-client-urls": self.clients[index],
            "listen-peer-urls": self._peers[index],
            "initial-advertise-peer-urls": self._peers[index],
            "initial-cluster": cluster,
            "name": f"n{index}",
            "data-dir": str(self._directory / f"etcd-{index}"),
        }
        argv = [self._program, *(f"--{key}={value}" for key, value in urls.items()), *self._options]
        with (self._directory / f"etcd-{index}.log").open("ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log)

    def wait(self) -> None:
        """Wait until every node answers."""
        until_s = time.monotonic() + 30
        for url in self.clients:
            while True:
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=1).close()
                    break
                except OSError:
                    assert time.monotonic() < until_s, (self._directory / "etcd-0.log").read_text()[-2000:]
                    time.sleep(0.05)

    def kill(self, index: int = 0) -> None:
        """End a node as a power cut does."""
        self.processes[index].kill()
        self.processes[index].wait()

    def restart(self, index: int = 0) -> None:
        """Start a node on what it had written."""
        self.processes[index] = self._start(index)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


class LossyWatch:
    """A way to a node of etcd on which watches suffer: lines of them are lost, late, overtaken, or cut off."""

    def __init__(self, url: str, seed: int) -> None:
        upstream, chance = urllib.parse.urlsplit(url).netloc, random.Random(seed)
        self.mishaps = mishaps = collections.Counter()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                connection = http.client.HTTPConnection(upstream, timeout=120)
                try:
                    connection.request("POST", self.path, body, {"Content-Type": "application/json"})
                    response = connection.getresponse()
                    if self.path.endswith("/watch"):
                        self._watch(response)
                        return
                    found, status = response.read(), response.status
                except OSError:
                    found, status = b"{}", 503
                finally:
                    connection.close()
                self.send_response(status)
                self.send_header("Content-Length", str(len(found)))
                self.end_headers()
                self.wfile.write(found)

            def _watch(self, response: http.client.HTTPResponse) -> None:
                self.close_connection = True
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                held = b""
                while line := response.readline():
                    what = chance.choices(("", "lost", "late", "overtaken", "cut off"), (12, 2, 2, 2, 1))[0]
                    what = what if b'"events"' in line else ""
                    mishaps[what] += 1
                    if what == "cut off":
                        return
                    if what == "late":
                        time.sleep(chance.random() / 2)
                    if what == "overtaken":
                        held = line
                    elif what != "lost":
                        for one in filter(None, (line, held)):
                            self.wfile.write(b"%x\r\n%s\r\n" % (len(one), one))
                        self.wfile.flush()
                        held = b""

            def log_message(self, *_) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"etcd:http://127.0.0.1:{self._server.server_address[1]}/tests"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
