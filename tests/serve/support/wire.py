"""A client that sends the bytes it is told, and reads answers as strictly as h11 does."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from dataclasses import dataclass

import h11

PATIENCE_S = 60
BODY = json.dumps({"inputs": [[3.0, -2.0, 5.0, 7.0]]}).encode()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def outputs(self):
        return json.loads(self.body)["outputs"]


EXTENSIONS = ["", ";a", ";a=b", "; a=b", " ;a", "\t; a = b", ' ; a="b c" ; d', ";a;b", ';a="x;y"']


def post(body: bytes = BODY, *headers: str, path: str = "/predict", version: str = "1.1") -> bytes:
    """Write a prediction request."""
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes, headers: tuple[str, ...] = (), path: str = "/predict") -> bytes:
    """Write a prediction request of chunks."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", *headers]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return "\r\n".join([*lines, "", ""]).encode() + body + b"0\r\n\r\n"


class Wire:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each piece is a segment of its own
        self._pending = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *error) -> None:
        self.socket.close()

    def send(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        for piece in pieces:
            self.socket.sendall(piece)
            time.sleep(pause_s)

    def send_until_closed(self, pieces: list[bytes], pause_s: float = 0.0) -> int:
        """Send pieces until the server has closed or takes no more, and return how many went."""
        for number, piece in enumerate(pieces):
            try:
                self.send(piece, pause_s=pause_s)
            except OSError:
                return number
        return len(pieces)

    def read(self, method: str = "POST") -> Answer:
        """Read one answer; what h11 refuses is an error of the test."""
        strict = h11.Connection(h11.CLIENT)
        strict.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        strict.send(h11.EndOfMessage())
        if self._pending:
            strict.receive_data(self._pending)
        head, body = None, b""
        while True:
            event = strict.next_event()
            if event is h11.NEED_DATA:
                data = self.socket.recv(65536)
                strict.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                raise AssertionError(f"nobody asked for {event.status_code}")
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                self._pending = strict.trailing_data[0]
                headers = {name.decode(): value.decode() for name, value in head.headers}
                return Answer(head.status_code, headers, body)

    def ask(self, *pieces: bytes, pause_s: float = 0.0) -> Answer:
        self.send(*pieces, pause_s=pause_s)
        return self.read()

    def drain(self, timeout_s: float = PATIENCE_S) -> bytes:
        """Read until the server closes; an error if it does not."""
        self.socket.settimeout(timeout_s)
        found = self._pending
        with contextlib.suppress(ConnectionError):
            while data := self.socket.recv(65536):
                found += data
        return found

    def finish(self) -> bytes:
        """Say that nothing more comes, and read until the server closes."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        return self.drain()


def statuses(answers: bytes) -> list[int]:
    """Find the statuses in what a server sent, in order, without those of the kind 1xx."""
    found = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answers)]
    return [status for status in found if status >= 200]
