"""A loopback server of repodata, and the variable that makes envtool ask it under the channels' canonical URLs.

Run by itself it serves until it is stopped: `python tests/support/repodata_server.py DIRECTORY [PORT]`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CANONICAL = {
    "conda-forge": "https://conda.anaconda.org/conda-forge/",
    "pytorch": "https://conda.anaconda.org/pytorch/",
    "nvidia": "https://conda.anaconda.org/nvidia/",
    "main": "https://repo.anaconda.com/pkgs/main/",
}


class _Server(ThreadingHTTPServer):
    # The solver opens a connection for each file of each subdir at once; the default queue of 5 would refuse some.
    request_queue_size = 128
    daemon_threads = True


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass


def variable(base: str, channels: Iterator[str] | list[str]) -> str:
    """The value of ENVTOOL_MIRRORS that makes a server under `base` stand for the channels."""
    return " ".join(f"{CANONICAL[channel]}={base}/{channel}/" for channel in channels)


@contextmanager
def serving(directory: Path, port: int = 0) -> Iterator[str]:
    """Serve a directory on the loopback interface; gives its URL."""

    def handler(*args: Any) -> _Handler:
        return _Handler(*args, directory=str(directory))

    with _Server(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def main() -> None:
    directory = Path(sys.argv[1])
    with serving(directory, int(sys.argv[2]) if len(sys.argv) > 2 else 0) as base:
        channels = [each for each in CANONICAL if (directory / each).is_dir()]
        print(f"export ENVTOOL_MIRRORS='{variable(base, channels)}'", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
