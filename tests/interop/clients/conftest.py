"""One real server of two workers, for all clients."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[2] / "serve" / "support"
sys.path[:0] = [str(SUPPORT), str(Path(__file__).parent)]

from serving import Server  # noqa: E402 - found by the line above
from trainer import Trainer  # noqa: E402


@pytest.fixture(scope="session", params=["gthread", "asgi"])
def server(tmp_path_factory, request):
    """A server of the model `affine`, version 1, on a free port; with workers of threads, and of an event loop."""
    if request.param == "asgi" and not all(map(importlib.util.find_spec, ("a2wsgi", "httptools", "uvicorn_worker"))):
        pytest.skip("the extra [fast] is not in this interpreter")
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not in this interpreter; run these tests in the created environment")
    directory = tmp_path_factory.mktemp("clients")
    trainer = Trainer(directory / "work", directory / "checkpoints")
    trainer.publish(1, version="1")
    server = Server(directory, trainer.directory, {"worker": request.param})
    server.wait_live(1)
    yield server
    server.stop()
