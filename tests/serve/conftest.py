"""Fixtures of the tests of `serve`: a trainer that publishes, and a real server."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parent / "support"
sys.path.insert(0, str(SUPPORT))

from serving import HAS_FAST, Server  # noqa: E402 - found by the line above
from trainer import Trainer  # noqa: E402
from warm import INTERPRETER  # noqa: E402


@pytest.hookimpl(trylast=True)  # after -x, fixtures end their servers only when the session finishes
def pytest_sessionfinish():
    INTERPRETER.end()


def pytest_runtest_setup(item):
    if item.get_closest_marker("needs_torch") and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not in this interpreter; run these tests in the created environment")


@pytest.fixture
def trainer(tmp_path):
    """A trainer beside an empty watched directory."""
    return Trainer(tmp_path / "work", tmp_path / "checkpoints")


# Elsewhere both workers run what is told to; there the threads do, while all other tests have the event loop.
IS_OLDEST = sys.version_info < (3, 10)


def pytest_generate_tests(metafunc):
    """Run what starts servers with the event-loop worker where it is installed, and with gthread too where told so.

    All of them with both: `pytest -m "nightly or not nightly"`.
    """
    if "start_server" in metafunc.fixturenames:
        is_told = metafunc.definition.get_closest_marker("both_workers")
        gthread = pytest.param("gthread", marks=() if is_told or not HAS_FAST else pytest.mark.nightly)
        asgi = pytest.param("asgi", marks=pytest.mark.nightly if is_told and IS_OLDEST else ())
        metafunc.parametrize("worker", [asgi, gthread] if HAS_FAST else [gthread])


@pytest.fixture
def start_server(tmp_path, trainer, worker):
    """A function that starts real gunicorn servers, which end with the test."""
    servers = []

    def start(**settings):
        server = Server(tmp_path, trainer.directory, {"worker": worker, **settings})
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()
