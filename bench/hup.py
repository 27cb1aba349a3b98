"""The longest wait of a request while `kill -HUP` replaces all workers.

    python bench/hup.py                          both workers, three reloads each
    python bench/hup.py --busy 2 --rate 200      on a machine that two other processes keep busy, 200 requests/s

Kept connections of one process of its own, which asks as fast as answers come or at a stated rate. Waits are shown for
three spans: before the signal, while the new workers load, and from the end of the first old worker on. A request that
fails is sent again once, as HTTP clients do with a kept connection that was closed, and counted. What else the machine
does shows in "before" too; root may have `setsid -w python bench/hup.py` go before other sessions.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import re
import selectors
import signal
import socket
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from swap import REQUEST, Server

_BEFORE_S, _AFTER_S = 2.0, 4.0
_SPANS = ("before", "while loading", "hand-over")


class Connection:
    """One kept connection, with at most one request under way."""

    def __init__(self, port: int, selector: selectors.BaseSelector) -> None:
        self._port, self._selector = port, selector
        self.socket: socket.socket | None = None
        self.began_s, self.got, self.again = 0.0, b"", False

    def ask(self) -> None:
        self.began_s, self.again = time.monotonic(), False
        self._send()

    def _send(self) -> None:
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self._port))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(self.socket, selectors.EVENT_READ, self)
        self.got = b""
        with contextlib.suppress(OSError):  # it is noticed when it is read
            self.socket.sendall(REQUEST)

    def read(self) -> str:
        """Read what came: nothing yet, "ok", "again" for a request that is sent once more, or what failed."""
        try:
            part = self.socket.recv(65536)
        except OSError:
            part = b""
        self.got += part
        if not part:
            self.close()
            if not self.began_s:
                return ""
            if self.again or self.got:
                return "cut"
            self.again = True
            self._send()
            return "again"
        head, found, body = self.got.partition(b"\r\n\r\n")
        if not found or len(body) < int(re.search(rb"(?i)content-length: (\d+)", head).group(1)):
            return ""
        if b"connection: close" in head.lower():
            self.close()
        return "ok" if head.startswith(b"HTTP/1.1 200") else head[:40].decode()

    def close(self) -> None:
        self._selector.unregister(self.socket)
        self.socket.close()
        self.socket = None


def send_until(port: int, count: int, rate: float, is_over, results) -> None:
    with contextlib.suppress(OSError):
        os.nice(-10)  # its own waits for the processor are no waits for an answer
    selector = selectors.DefaultSelector()
    connections = [Connection(port, selector) for _ in range(count)]
    answers, faults, idle = [], [], list(connections)
    due_s = time.monotonic()
    while not is_over.is_set() or len(idle) < count:
        now_s = time.monotonic()
        while idle and not is_over.is_set() and (not rate or due_s <= now_s):
            due_s += 1 / rate if rate else 0
            idle.pop().ask()
        for key, _ in selector.select(0.001 if rate else 0.1):
            outcome, now_s = key.data.read(), time.monotonic()
            if outcome not in ("", "ok"):
                faults.append((now_s, outcome))
            if outcome and outcome != "again":
                answers.append((key.data.began_s, now_s - key.data.began_s))
                key.data.began_s = 0.0
                idle.append(key.data)
    results.put((answers, faults))


def wait_for(server: Server, pattern: str, count: int) -> list[str]:
    until_s = time.monotonic() + 300
    while time.monotonic() < until_s:
        found = re.findall(pattern, server.log_path.read_text())
        if len(found) >= count:
            return found
        time.sleep(0.02)
    raise SystemExit(f"waited 300 s in vain for {pattern}\n{server.log_path.read_text()[-3000:]}")


def reload_once(server: Server, options) -> dict:
    exits = len(re.findall(r"Worker exiting", server.log_path.read_text()))
    is_over, results = multiprocessing.Event(), multiprocessing.Queue()
    client = multiprocessing.Process(
        target=send_until, args=(server.port, options.connections, options.rate, is_over, results)
    )
    client.start()
    time.sleep(_BEFORE_S)
    asked_s = time.monotonic()
    os.kill(server.process.pid, signal.SIGHUP)
    wait_for(server, r"Worker exiting", exits + 1)
    first_end_s = time.monotonic() - 0.05
    wait_for(server, r"Worker exiting", exits + options.workers)
    time.sleep(_AFTER_S)
    is_over.set()
    answers, faults = results.get()
    client.join()
    edges = (0.0, asked_s, first_end_s, float("inf"))
    spans = {
        name: [took_s for began_s, took_s in answers if start <= began_s + took_s and began_s < end]
        for name, start, end in zip(_SPANS, edges, edges[1:])
    }
    worst = sorted(answers, key=lambda answer: -answer[1])[:5]
    return {
        "longest_ms": {name: 1000 * max(waits, default=0.0) for name, waits in spans.items()},
        "p99_ms": {name: 1000 * sorted(waits)[int(len(waits) * 0.99)] if waits else 0 for name, waits in spans.items()},
        "worst": [(round(began_s - asked_s, 3), round(1000 * took_s)) for began_s, took_s in worst],
        "load_s": first_end_s - asked_s,
        "requests": len(answers),
        "faults": [(round(at_s - asked_s, 3), what) for at_s, what in faults],
    }


def measure(worker: str, options) -> list[dict]:
    os.environ.update(SERVE_WORKER=worker, SERVE_WORKERS=str(options.workers))
    busy = [multiprocessing.Process(target=spin, daemon=True) for _ in range(options.busy)]
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory), options.parameters)
        for process in busy:
            process.start()
        try:
            return [reload_once(server, options) for _ in range(options.rounds)]
        finally:
            for process in busy:
                process.kill()
            server.process.terminate()
            server.process.wait()


def spin() -> None:
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", choices=("asgi", "gthread"), action="append")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0: as many as are answered")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=0, help="other processes that never rest")
    parser.add_argument("--parameters", type=int, default=1_000_000)
    options = parser.parse_args()
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("-15")
    print(f"{datetime.now():%Y-%m-%d %H:%M}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {sys.argv[1:]}")
    for worker in options.worker or ("asgi", "gthread"):
        rounds = measure(worker, options)
        for each in rounds:
            print(
                worker,
                {name: round(ms) for name, ms in each["longest_ms"].items()},
                f"loaded in {each['load_s']:.1f} s",
                each["requests"],
                "requests",
                each["faults"][:5],
                each["worst"],
            )
        longest = [max(each["longest_ms"]["while loading"], each["longest_ms"]["hand-over"]) for each in rounds]
        print(f"{worker}: longest wait {max(longest):.0f} ms, median of rounds {statistics.median(longest):.0f} ms")


if __name__ == "__main__":
    main()
