"""The certificates that a server's is checked against: those of a bundle, or Mozilla's as certifi has them.

They are read once, when the first connection is there to be secured. urllib3 by itself reads them for each connection,
which takes longer than to connect.
"""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import Any


class _Trust(ssl.SSLContext):
    """A context that reads its certificates when it is first used."""

    bundle: str | None
    is_read: bool
    lock: threading.Lock

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        self._read()
        return super().wrap_socket(*args, **options)

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        self._read()
        return super().wrap_bio(*args, **options)

    def _read(self) -> None:
        with self.lock:
            if not self.is_read:
                import certifi

                place = self.bundle or certifi.where()
                try:
                    self.load_verify_locations(**({"capath": place} if Path(place).is_dir() else {"cafile": place}))
                except OSError as error:
                    raise ssl.SSLError(f"no certificates can be read from {place}") from error
                self.is_read = True


def trusting(bundle: str | None) -> ssl.SSLContext:
    """A context for connections to servers, that checks their names and certificates."""
    from urllib3.util.ssl_ import create_urllib3_context

    # As strict as urllib3's own, which before version 2 compares the names itself.
    model = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    context = _Trust(ssl.PROTOCOL_TLS_CLIENT)
    for name in ("check_hostname", "minimum_version", "options", "verify_flags"):
        setattr(context, name, getattr(model, name))
    context.bundle, context.is_read, context.lock = bundle, False, threading.Lock()
    return context
