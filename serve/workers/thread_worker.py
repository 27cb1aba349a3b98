"""Gunicorn's worker with threads, and our pool of request threads in it."""

from __future__ import annotations

import json
from typing import Any

from gunicorn.http.errors import InvalidHeader
from gunicorn.workers.gthread import ThreadWorker

from serve.http.thread_pool import RequestPool

# Until the settings say otherwise, in `post_worker_init`.
_CLIENT_TIMEOUT_S = 30.0


class Worker(ThreadWorker):  # type: ignore[misc]
    """Knows how many connections wait for a thread, and lets no slow client keep one."""

    def get_thread_pool(self) -> RequestPool:
        """Make the threads; gunicorn's documentation names this method as the one to override."""
        return RequestPool(self.cfg.threads, _CLIENT_TIMEOUT_S)

    def handle(self, conn: Any) -> Any:
        """Answer the requests of a connection that have come.

        Args:
            conn: gunicorn's connection.
        """
        found = super().handle(conn)
        # Gunicorn 23 waits for the socket after each request, and never looks at one that it has read already.
        while isinstance(found, tuple) and found[0] and conn.parser.unreader.buf.getvalue():
            found = super().handle(conn)
        return found

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer one request, which has to name its host (RFC 9112, 3.2).

        Args:
            req: gunicorn's request.
            conn: gunicorn's connection.
        """
        if req.version >= (1, 1) and not any(name == "HOST" for name, _ in req.headers):
            raise InvalidHeader("HOST", req=req)
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer what could not be read as a request.

        Args:
            req: gunicorn's request, as far as it is known.
            client: the socket.
            addr: of the client.
            exc: what is wrong.
        """
        super().handle_error(req, _JsonErrors(client, str(exc)), addr, exc)


class _JsonErrors:
    """A socket that turns gunicorn's own answer, which is a page of HTML, into ours; its status stays."""

    def __init__(self, sock: Any, reason: str) -> None:
        self._sock, self._reason = sock, reason

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, page: bytes) -> None:
        line = page.partition(b"\r\n")[0]
        status = int(line.split()[1])
        said = f"the request: {self._reason}" if status < 500 else line.split(None, 2)[2].decode()
        body = json.dumps({"error": said}).encode()
        fields = b"Connection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._sock.sendall(b"%s\r\n%s%s" % (line, fields, body))
