"""A watched place whose server goes away, hangs, or hands out stale handles: the model that is live serves on.

The file system is a real one in the kernel's eyes (FUSE), and its server is a program that fails as it is told.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from network_file_system import HANG, NetworkFileSystem, library
from serving import wait_until
from trainer import ROW

pytestmark = pytest.mark.needs_torch
pytest.importorskip("mfusepy", reason="mfusepy is not installed", exc_type=(ImportError, OSError))


@pytest.fixture
def network(trainer, tmp_path):
    """The trainer's directory, seen through a mount."""
    found = library(tmp_path)
    if found is None or os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("needs root, /dev/fuse and libfuse (Debian: libfuse3-3)")
    mounted = NetworkFileSystem(trainer.directory, tmp_path / "mount", found)
    yield mounted
    mounted.unmount()


def expect(server, trainer, published):
    client = server.client()
    started_s = time.monotonic()
    reply = client.predict([ROW])
    client.close()
    assert (reply.status, reply.sha256) == (200, published.sha256)
    assert reply.json["outputs"] == [trainer.expected(published.sha256)]
    return time.monotonic() - started_s


def wait_for_reason(server, word):
    def find():
        told = [*server.events("refused"), *server.events("fault")]
        return [line for line in told if word in line["reason"]]

    return wait_until(find, f"a word about {word}", lambda: server.text)


def test_a_server_that_hands_out_stale_handles_hangs_and_goes_away(start_server, trainer, network):
    first = trainer.publish(1)
    server = start_server(checkpoints=network.point)
    server.wait_live(1)
    assert "other machines' writes make no file events" in server.events("watching")[0]["how"]

    network.tell("ESTALE")
    second = trainer.publish(2)
    wait_for_reason(server, "Stale file handle")
    expect(server, trainer, first)
    network.tell("")
    server.wait_live(2)  # what may pass is tried again

    network.tell(HANG)
    third = trainer.publish(3)
    time.sleep(1)  # several looks of the reloader, one of which hangs in the kernel
    for _ in range(5):
        expect(server, trainer, second)
    assert server.get("/readyz").status == 200
    network.tell("")
    server.wait_live(3)

    network.kill()
    wait_for_reason(server, "Transport endpoint is not connected")
    expect(server, trainer, third)
    network.unmount()
    network.mount()
    fourth = trainer.publish(4)
    server.wait_live(4)
    expect(server, trainer, fourth)


def test_a_server_that_hangs_holds_up_neither_a_start_nor_an_end(start_server, trainer, network, monkeypatch):
    """What is live comes from the store, which is on this machine's own disk.

    A call that hangs in FUSE cannot be killed: the kernel keeps the dead worker until it returns, and gunicorn ends
    without it after its graceful time-out.
    """
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--graceful-timeout 3")
    first = trainer.publish(1)
    server = start_server(checkpoints=network.point)
    server.wait_live(1)
    network.tell(HANG)
    trainer.publish(2)
    time.sleep(1)
    started_s = time.monotonic()
    server.stop()
    assert server.process.returncode == 0, server.text
    assert time.monotonic() - started_s < 15
    again = start_server(checkpoints=network.point)
    again.wait_live(1)
    expect(again, trainer, first)
    network.tell("")
    again.wait_live(2)
