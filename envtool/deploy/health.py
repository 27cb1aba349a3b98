"""One question to a server: does it answer well?"""

from __future__ import annotations

import http.client
import socket

_LIMIT_S = 10.0


class _Connection(http.client.HTTPConnection):
    """A connection to an address of gunicorn: `host:port`, or `unix:` and a path."""

    def __init__(self, address: str) -> None:
        super().__init__("localhost", timeout=_LIMIT_S)
        self._address = address

    def connect(self) -> None:
        if self._address.startswith("unix:"):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(_LIMIT_S)
            self.sock.connect(self._address[len("unix:") :])
            return
        host, _, port = self._address.rpartition(":")
        # A server that listens on every address is asked on this machine's own.
        host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104 - compared, not bound
        self.sock = socket.create_connection((host, int(port)), _LIMIT_S)


def ask(address: str, path: str) -> str | None:
    """Ask a server whether it is well.

    Returns:
        What is wrong; None when it answers 200.
    """
    connection = _Connection(address)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        text = response.read(500).decode(errors="replace").strip()
        return None if response.status == 200 else f"GET {path} gives HTTP {response.status}: {text}"
    except (OSError, http.client.HTTPException) as error:
        return f"GET {path} gives no answer: {error or type(error).__name__}"
    finally:
        connection.close()
