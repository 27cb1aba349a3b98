"""Gunicorn's worker with threads, and our pool of request threads in it."""

from __future__ import annotations

from typing import Any

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
