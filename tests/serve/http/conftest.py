"""Servers of both worker classes that all tests of a module share: they are only asked, not swapped."""

from __future__ import annotations

import importlib.util

import pytest
from serving import Server
from trainer import ROW, Trainer

for _name in ("h11", "uvicorn", "uvicorn_worker", "a2wsgi", "httptools"):
    if importlib.util.find_spec(_name) is None:
        collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    """A trainer that has published one checkpoint, and the right answer to `trainer.ROW`."""
    directory = tmp_path_factory.mktemp("http")
    trainer = Trainer(directory / "work", directory / "checkpoints")
    published = trainer.publish(1)
    return trainer, [trainer.expected(published.sha256, ROW)]


@pytest.fixture(scope="package")
def servers(tmp_path_factory, trained):
    """A function that gives the shared server of a worker class."""
    running = {}

    def get(worker):
        if worker not in running:
            settings = {"worker": worker, "workers": 1, "client_timeout_s": 2, "max_body_bytes": 100_000}
            running[worker] = Server(tmp_path_factory.mktemp(worker), trained[0].directory, settings)
            running[worker].wait_live(1, workers=1)
        return running[worker]

    yield get
    for server in running.values():
        server.stop()


@pytest.fixture(params=["asgi", "gthread"])
def server(servers, request):
    """The shared server of each worker class in turn."""
    return servers(request.param)


@pytest.fixture
def asgi(servers):
    """The shared server of the event-loop worker."""
    return servers("asgi")


@pytest.fixture
def outputs(trained):
    """The right answer to `wire.BODY`."""
    return trained[1]
