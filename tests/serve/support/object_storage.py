"""A real S3 server on the loopback: moto's, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import wait_until

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def start_s3(log: Path) -> Iterator[object]:
    """Start the server, which tells `log` of each request; gives fsspec's file system, with an empty `bucket`.

    The environment has its address and keys as long as it runs.
    """
    fsspec = pytest.importorskip("fsspec", reason="the extra [remote] is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    code = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', '0'])"
    with log.open("wb") as writer:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=writer, stderr=writer)

    def find():
        assert process.poll() is None, log.read_text()
        words = [word for word in log.read_text().split() if word.startswith("http://127.0.0.1:")]
        return words[0] if words else None

    try:
        with pytest.MonkeyPatch.context() as patch:
            url = wait_until(find, "moto's address", log.read_text).rstrip("/")
            for key, value in {**KEYS, "AWS_ENDPOINT_URL": url}.items():
                patch.setenv(key, value)
            system = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
            system.mkdir("bucket")
            yield system
    finally:
        process.terminate()
        process.wait(20)
