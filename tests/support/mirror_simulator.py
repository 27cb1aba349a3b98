"""A mirror on 127.0.0.1 that can be told how to fail: real HTTP over a real socket, no mocks.

    with MirrorSimulator() as mirror:
        url = mirror.put("noarch/a-1.0-0.conda", content)       # bytes, or a Path whose content is sent
        mirror.put_tree(channel_directory)                      # every file of a directory
        mirror.answer("noarch/a-1.0-0.conda", status(503), truncated(at=100))
        mirror.answer("*.whl", stalled(after=10), then=status(404))

The n-th request for a file gets the n-th of its answers; after the last one comes `then`, which is `good()` unless
something else is given. The pattern that was told last wins. `mirror.requests` tells who asked for what and when;
`mirror.close_port()` refuses connections from then on, and `closed_port_url()` is the URL of a place where nobody
listens. An https URL of a simulator gives a true TLS failure, since it speaks no TLS.
"""

from __future__ import annotations

import contextlib
import fnmatch
import gzip
import io
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

from tests.support.mirror_answers import Answer, good, status

_CHUNK_BYTES = 1 << 16
_GOOD = good()
_INVERTED = bytes(range(255, -1, -1))


@dataclass(frozen=True)
class Request:
    """A request that came in.

    Args:
        path: Of the file, without the leading slash.
        range: The Range header, None where the whole file was asked for.
        at_s: When, on the monotonic clock.
        authorization: The Authorization header.
    """

    path: str
    range: str | None
    at_s: float
    authorization: str | None


def closed_port_url() -> str:
    """The base URL of a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


@dataclass
class _Script:
    pattern: str
    answers: tuple[Answer, ...]
    then: Answer
    counts: dict[str, int] = field(default_factory=dict)

    def next(self, path: str) -> Answer:
        count = self.counts.get(path, 0)
        self.counts[path] = count + 1
        return self.answers[count] if count < len(self.answers) else self.then


class MirrorSimulator:
    """A mirror; used as a context manager."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.files: dict[str, bytes | Path] = {}
        self._scripts: list[_Script] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.mirror = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> MirrorSimulator:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_port()

    def close_port(self) -> None:
        """End every answer under way and listen no more."""
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_connections()

    def put(self, path: str, content: bytes | Path) -> str:
        """Serve a file; its URL is returned."""
        self.files[path] = content
        return self.url + quote(path)

    def put_tree(self, directory: Path) -> str:
        """Serve every file of a directory under its relative path; the base URL is returned."""
        for path in directory.rglob("*"):
            if path.is_file():
                self.files[path.relative_to(directory).as_posix()] = path
        return self.url

    def answer(self, pattern: str, *answers: Answer, then: Answer = _GOOD) -> None:
        """Say how requests for the files that match a pattern (as in fnmatch) are answered, one after the other."""
        with self._lock:
            self._scripts.append(_Script(pattern, answers, then))

    def asked(self, path: str) -> list[Request]:
        """The requests for one file, in the order they came."""
        return [request for request in self.requests if request.path == path]

    def _next(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            for script in reversed(self._scripts):
                if fnmatch.fnmatchcase(request.path, script.pattern):
                    return script.next(request.path)
        return good()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    mirror: MirrorSimulator

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that go away are what is being tested


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        mirror = self.server.mirror
        request = Request(path, self.headers.get("Range"), time.monotonic(), self.headers.get("Authorization"))
        answer = mirror._next(request)
        content = mirror.files.get(path)
        if content is None and answer.kind in _NEED_FILE:
            answer = status(404)
        getattr(self, f"_{answer.kind}")(answer, b"" if content is None else content)

    # One method for each kind of answer.

    def _good(self, answer: Answer, content: bytes | Path) -> None:
        start, size = self._start(content)
        if start >= size > 0:
            self._head(416, 0, [("Content-Range", f"bytes */{size}")])
            return
        with self._body_head(start, size, content) as file:
            self._copy(file, size - start)

    def _range_ignored(self, answer: Answer, content: bytes | Path) -> None:
        size = _size(content)
        with self._body_head(0, size, content) as file:
            self._copy(file, size)

    def _truncated(self, answer: Answer, content: bytes | Path) -> None:
        start, size = self._start(content)
        with self._body_head(start, size, content) as file:
            self._copy(file, max(0, min(size, int(answer.number)) - start))
        self.close_connection = True

    def _cut(self, answer: Answer, content: bytes | Path) -> None:
        self._head(200, None, [("Connection", "close")])
        with _open(content) as file:
            self._copy(file, int(answer.number))
        self.close_connection = True

    def _stalled(self, answer: Answer, content: bytes | Path) -> None:
        start, size = self._start(content)
        with self._body_head(start, size, content) as file:
            self._copy(file, max(0, min(size, int(answer.number)) - start))
        self.server.mirror._stop.wait()
        self.close_connection = True

    def _silent(self, answer: Answer, content: bytes | Path) -> None:
        self.server.mirror._stop.wait()
        self.close_connection = True

    def _reset(self, answer: Answer, content: bytes | Path) -> None:
        if answer.number >= 0:
            start, size = self._start(content)
            with self._body_head(start, size, content) as file:
                self._copy(file, max(0, min(size, int(answer.number)) - start))
        # A linger time of zero turns the close into a reset. shutdown() would send an orderly end first.
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True
        self.wfile = self.rfile = io.BytesIO()  # type: ignore[assignment]

    def _trickle(self, answer: Answer, content: bytes | Path) -> None:
        start, size = self._start(content)
        step = max(1, int(answer.number / 20))
        with self._body_head(start, size, content) as file:
            left = size - start
            while left > 0 and not self.server.mirror._stop.wait(step / answer.number):
                self._copy(file, min(step, left))
                left -= step

    def _wrong(self, answer: Answer, content: bytes | Path) -> None:
        right = content if isinstance(content, bytes) else content.read_bytes()
        self._good(answer, right.translate(_INVERTED))

    def _other(self, answer: Answer, content: bytes | Path) -> None:
        self._good(answer, b"?" * int(answer.number))

    def _wrong_range(self, answer: Answer, content: bytes | Path) -> None:
        start, size = self._start(content)
        if self.headers.get("Range") is None:
            self._good(answer, content)
            return
        start = max(0, min(size - 1, start + int(answer.number)))
        with self._body_head(start, size, content) as file:
            self._copy(file, size - start)

    def _gzip(self, answer: Answer, content: bytes | Path) -> None:
        packed = gzip.compress(content if isinstance(content, bytes) else content.read_bytes(), mtime=0)
        self._head(200, len(packed), [("Content-Encoding", "gzip")])
        self._copy(io.BytesIO(packed), len(packed))

    def _chunked(self, answer: Answer, content: bytes | Path) -> None:
        self._head(200, None, [("Transfer-Encoding", "chunked")])
        with _open(content) as file:
            while chunk := file.read(_CHUNK_BYTES):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")

    def _status(self, answer: Answer, content: bytes | Path) -> None:
        self._text(int(answer.number), HTTPStatus(int(answer.number)).phrase, "text/plain", list(answer.headers))

    def _html(self, answer: Answer, content: bytes | Path) -> None:
        self._text(200, "<!doctype html><title>Log in to the network</title>", answer.text, [])

    def _redirect(self, answer: Answer, content: bytes | Path) -> None:
        self._head(302, 0, [("Location", answer.text)])

    # What they are made of.

    def _start(self, content: bytes | Path) -> tuple[int, int]:
        asked = self.headers.get("Range", "")
        start = asked.removeprefix("bytes=").partition("-")[0]
        return int(start) if start.isdigit() else 0, _size(content)

    @contextlib.contextmanager
    def _body_head(self, start: int, size: int, content: bytes | Path) -> Iterator[BinaryIO]:
        ranged = [("Content-Range", f"bytes {start}-{size - 1}/{size}")] if start else []
        # A directory is a page of a package index.
        kind = [("Content-Type", "text/html")] if urlsplit(self.path).path.endswith("/") else []
        self._head(206 if start else 200, size - start, [*kind, *ranged])
        with _open(content) as file:
            file.seek(start)
            yield file

    def _text(self, code: int, text: str, kind: str, headers: list[tuple[str, str]]) -> None:
        body = text.encode()
        self._head(code, len(body), [("Content-Type", kind), *headers])
        self._copy(io.BytesIO(body), len(body))

    def _head(self, code: int, length: int | None, headers: list[tuple[str, str]]) -> None:
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _copy(self, file: BinaryIO, count: int) -> None:
        if self.command == "HEAD":
            return
        while count > 0 and (chunk := file.read(min(count, _CHUNK_BYTES))):
            self.wfile.write(chunk)
            count -= len(chunk)


_NEED_FILE = frozenset(
    {"good", "range_ignored", "truncated", "cut", "stalled", "trickle", "wrong", "wrong_range", "gzip", "chunked"}
)


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _open(content: bytes | Path) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
