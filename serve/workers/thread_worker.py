"""Gunicorn's worker with threads, and our pool of request threads in it; gunicorn 23 needs a longer end."""

from __future__ import annotations

import json
import selectors
import sys
import time
from concurrent import futures
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn import version_info
from gunicorn.http.errors import InvalidHeader, LimitRequestLine
from gunicorn.workers.gthread import ThreadWorker

from serve.http.drain import find_server
from serve.http.thread_pool import RequestPool, SlowClients
from serve.workers.request_head import NO_PROXY, Bounds, Fault, find_fault

# For gunicorn 23 alone, the last for Python 3.9; this block goes with it. Releases before 24 stop looking at their
# connections when they are told to end: a connection that was accepted and not read yet is reset, and so is one that
# was promised to be kept. Measured with gunicorn 23.0.0 under four clients: two requests are lost with each replacement
# of a server. Later gunicorns read on for a moment, as this does.

_LINGER_S = 2.0  # as long as later gunicorns wait for the next request on a connection that was promised to be kept
_POLL_S = 0.1
_FIXED_IN = (24,)


class GracefulWorker(ThreadWorker):  # type: ignore[misc]
    """What a `ThreadWorker` of gunicorn 23 has to do differently."""

    alive: bool

    def run(self) -> None:
        """Answer requests until asked to end, then read on until no client can be about to send."""
        for listener in self.sockets:
            listener.setblocking(False)
            acceptor = partial(self.accept, listener.getsockname())
            self.poller.register(listener, selectors.EVENT_READ, acceptor)
        while self.alive and self.is_parent_alive():
            self._turn(1.0)
        self.alive = False
        # Another process may accept what comes now: a server's listener is shared, and so is a hand-over's.
        for listener in self.sockets:
            self.poller.unregister(listener)
        # While it ends, each answer says that its connection closes, so that their number can only fall.
        began_s = time.monotonic()
        while self.nr_conns > 0 and time.monotonic() - began_s < self.cfg.graceful_timeout:
            if not self.futures and time.monotonic() - began_s > _LINGER_S:
                break
            self._turn(_POLL_S)
        self.tpool.shutdown(False)
        self.poller.close()
        for listener in self.sockets:
            listener.close()
        futures.wait(self.futures, timeout=self.cfg.graceful_timeout)

    def finish_request(self, fs: Any) -> None:
        """Keep a connection that was promised to be kept, also while ending."""
        conn = fs.conn
        if fs.cancelled() or fs.exception() is not None or not fs.result()[0]:
            super().finish_request(fs)
            return
        conn.sock.setblocking(False)
        conn.set_timeout()
        with self._lock:
            self._keep.append(conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def _turn(self, wait_s: float) -> None:
        self.notify()
        if self.nr_conns < self.worker_connections or not self.alive:
            for key, _ in self.poller.select(wait_s):
                key.data(key.fileobj)
            wait_s = 0
        for future in futures.wait(self.futures, timeout=wait_s, return_when=futures.FIRST_COMPLETED).done:
            self.futures.remove(future)
        self.murder_keepalived()


_Base: Any = ThreadWorker if version_info >= _FIXED_IN else GracefulWorker
# The end of the block for gunicorn 23.


class Worker(_Base):  # type: ignore[misc]
    """Knows how many connections wait for a thread, and lets no slow client keep one."""

    def get_thread_pool(self) -> RequestPool:
        """Make the threads; gunicorn's documentation names this method as the one to override."""
        return RequestPool(self.cfg.threads, self._find_rule)

    def _find_rule(self) -> SlowClients:
        server = find_server(self.wsgi)
        if server is None:
            return SlowClients()
        report = server.telemetry.worker_metrics.request_counters.reject_slow_client
        return SlowClients(server.settings.client_timeout_s, report)

    @property
    def queued(self) -> int:
        """How many connections wait for a thread."""
        return int(self.tpool.waiting)

    def handle(self, conn: Any) -> Any:
        """Answer the requests of a connection that have come."""
        found = super().handle(conn)
        # Gunicorn 23 waits for the socket after each request, and never looks at one that it has read already.
        while isinstance(found, tuple) and found[0] and conn.parser.unreader.buf.getvalue():
            found = super().handle(conn)
        return found

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer one request whose head keeps to the rules; gunicorn 23 knows few of them."""
        fields = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in req.headers]
        version = ".".join(map(str, req.version))
        bounds = Bounds(self.cfg.limit_request_line, len(fields), sys.maxsize, 0.0)  # gunicorn has counted these
        fault = find_fault(bounds, version, req.uri.encode("latin-1"), fields)
        if req.method == "CONNECT":
            fault = NO_PROXY
        if fault is not None:
            raise _HeadFaultError(fault)
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer bytes that could not be read as a request."""
        status = exc.fault.status if isinstance(exc, _HeadFaultError) else None
        if isinstance(exc, LimitRequestLine):
            status = 414
        super().handle_error(req, _JsonErrors(client, str(exc), status), addr, exc)


class _HeadFaultError(InvalidHeader):  # type: ignore[misc]
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault

    def __str__(self) -> str:
        return self.fault.message


class _JsonErrors:
    """A socket that turns gunicorn's own answer, which is a page of HTML, into ours."""

    def __init__(self, sock: Any, reason: str, status: int | None) -> None:
        self._sock, self._reason, self._status = sock, reason, status

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, page: bytes) -> None:
        line = page.partition(b"\r\n")[0]
        status = int(line.split()[1])
        message = f"the request: {self._reason}" if status < 500 else line.split(None, 2)[2].decode()
        if self._status is not None:
            line = b"HTTP/1.1 %d %s" % (self._status, HTTPStatus(self._status).phrase.encode())
        body = json.dumps({"error": message}).encode()
        fields = b"Connection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._sock.sendall(b"%s\r\n%s%s" % (line, fields, body))
