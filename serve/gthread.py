"""Gunicorn's worker with threads, and our pool of request threads in it."""

from __future__ import annotations

from gunicorn.workers.gthread import ThreadWorker

from serve.pool import RequestPool

# Until the settings say otherwise, in `post_worker_init`.
_CLIENT_TIMEOUT_S = 30.0


class Worker(ThreadWorker):  # type: ignore[misc]
    """Knows how many connections wait for a thread, and lets no slow client keep one."""

    def get_thread_pool(self) -> RequestPool:
        """Make the threads; gunicorn's documentation names this method as the one to override."""
        return RequestPool(self.cfg.threads, _CLIENT_TIMEOUT_S)
