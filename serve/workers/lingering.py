"""A worker with threads that ends without dropping a connection, for gunicorn before 24.

Those releases stop looking at their connections when they are told to end: a connection that was accepted and not read
yet is reset, and so is one that was promised to be kept. Measured with gunicorn 23.0.0 under four clients: two requests
are lost with each replacement of a server. Later gunicorns read on for a moment, as this worker does; they leave
Python 3.9 behind.
"""

from __future__ import annotations

import selectors
import time
from concurrent import futures
from functools import partial
from typing import Any

# As long as later gunicorns wait for the next request on a connection that was promised to be kept.
_LINGER_S = 2.0
_POLL_S = 0.1
_FIXED_IN = (24,)


def lingering(worker_class: Any) -> Any:
    """The worker to use instead of one that drops connections; the same one where that is not needed.

    Args:
        worker_class: a value of gunicorn's setting `worker_class`.

    Returns:
        Another value of that setting.
    """
    from gunicorn import util, version_info
    from gunicorn.workers.gthread import ThreadWorker

    found = util.load_class(worker_class) if isinstance(worker_class, str) else worker_class
    if version_info >= _FIXED_IN or not issubclass(found, ThreadWorker) or issubclass(found, Lingering):
        return worker_class
    return type(found.__name__, (Lingering, found), {})


class Lingering:
    """What a `ThreadWorker` of gunicorn 23 has to do differently; a mix-in that comes first."""

    alive: bool
    cfg: Any
    futures: Any
    nr_conns: int
    poller: Any
    sockets: Any
    tpool: Any
    worker_connections: int
    notify: Any
    accept: Any
    is_parent_alive: Any
    murder_keepalived: Any
    on_client_socket_readable: Any
    _keep: Any
    _lock: Any

    def run(self) -> None:
        """Answer requests until told to end, then read on until no client can be about to send."""
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
        self._linger()
        self.tpool.shutdown(False)
        self.poller.close()
        for listener in self.sockets:
            listener.close()
        futures.wait(self.futures, timeout=self.cfg.graceful_timeout)

    def finish_request(self, fs: Any) -> None:
        """Keep a connection that was promised to be kept, also while ending.

        Args:
            fs: the future of the request.
        """
        conn = fs.conn
        if fs.cancelled() or fs.exception() is not None or not fs.result()[0]:
            super().finish_request(fs)  # type: ignore[misc]
            return
        conn.sock.setblocking(False)
        conn.set_timeout()
        with self._lock:
            self._keep.append(conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def _linger(self) -> None:
        # While it ends, each answer says that its connection closes, so that their number can only fall.
        began_s = time.monotonic()
        while self.nr_conns > 0 and time.monotonic() - began_s < self.cfg.graceful_timeout:
            if not self.futures and time.monotonic() - began_s > _LINGER_S:
                break
            self._turn(_POLL_S)

    def _turn(self, wait_s: float) -> None:
        self.notify()
        if self.nr_conns < self.worker_connections or not self.alive:
            for key, _ in self.poller.select(wait_s):
                key.data(key.fileobj)
            done = futures.wait(self.futures, timeout=0, return_when=futures.FIRST_COMPLETED).done
        else:
            done = futures.wait(self.futures, timeout=wait_s, return_when=futures.FIRST_COMPLETED).done
        for each in done:
            self.futures.remove(each)
        self.murder_keepalived()
