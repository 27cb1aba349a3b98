"""Whatever happens to the file events, what is published is found within a poll interval."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from serving import wait_until
from trainer import ROW, mark

from serve.source.file_events import FileEvents

# Starting to look again takes a moment on a machine that does other work too.
SLACK_S = 5.0


def can_run(*command):
    return shutil.which(command[0]) and subprocess.run(command, stdout=-1, stderr=-1).returncode == 0


@pytest.mark.skipif(
    not can_run("unshare", "--user", "--map-root-user", "sh", "-c", "echo 5 > /proc/sys/user/max_inotify_instances"),
    reason="needs user namespaces, so that the limit is lowered for this test alone",
)
def test_the_limit_of_inotify_is_reached_and_raised_again(tmp_path):
    code = """if True:
        import sys, time
        from pathlib import Path
        from serve.source import file_events as wakeup
        wakeup._REBUILD_PAUSE_S = 0.2
        limit = Path("/proc/sys/user/max_inotify_instances")
        limit.write_text("0")
        reports = []
        waiting = wakeup.FileEvents("auto", reports.append)
        for _ in range(3):
            waiting.supervise(Path(sys.argv[1]))
        expected = "no file events, the timer alone: the limit fs.inotify.max_user_instances is reached"
        assert reports == [expected], reports
        started = time.monotonic()
        waiting.wait(0.3)
        assert time.monotonic() - started >= 0.3
        limit.write_text("100")
        while len(reports) < 2:
            waiting.supervise(Path(sys.argv[1]))
            waiting.wait(0.1)
        assert reports[1] == "file events", reports
        waiting.close()
    """
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code, str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, timeout=60, env=environ)


@pytest.mark.needs_torch
def test_the_queue_overflows(start_server, trainer):
    """Stopped workers read no events; the kernel drops those beyond its queue, the marker's among them."""
    trainer.publish(1)
    server = start_server(poll_s=2)
    server.wait_live(1)
    most = int(open("/proc/sys/fs/inotify/max_queued_events").read())  # noqa: PTH123, SIM115
    for pid in server.workers():
        os.kill(pid, signal.SIGSTOP)
    try:
        for number in range(most // 2):  # a rename is two events, and each differs from the one before it
            (trainer.directory / f"x{number}").touch()
            (trainer.directory / f"x{number}").unlink()
        published = trainer.publish(2)
    finally:
        for pid in server.workers():
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: server.client().predict([ROW]).sha256 == published.sha256, "the second one", lambda: server.text)
    trainer.publish(3)
    server.wait_live(3)
    assert server.events("fault") == []


@pytest.mark.needs_torch
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a tmpfs")
def test_the_place_is_unmounted_and_mounted(start_server, trainer):
    mount = ["mount", "-t", "tmpfs", "none", str(trainer.directory)]
    if not can_run(*mount):
        pytest.skip("cannot mount a tmpfs here")
    try:
        trainer.publish(1)
        server = start_server()
        server.wait_live(1)
        subprocess.run(["umount", "-l", str(trainer.directory)], check=True)
        first = server.client().predict([ROW])
        assert first.generation == 1
        subprocess.run(mount, check=True)
        trainer.publish(2)
        server.wait_live(2)
    finally:
        subprocess.run(["umount", "-l", str(trainer.directory)], check=False)


def test_an_observer_that_died_is_built_again(tmp_path):
    reports = []
    waiting = FileEvents("auto", reports.append)
    waiting.supervise(tmp_path)
    for thread in (waiting._observer, *waiting._observer.emitters):
        thread.stop()
        thread.join(5)
    waiting.supervise(tmp_path)
    waiting.wait(0.3)
    mark(tmp_path / "m.pth")
    started = time.monotonic()
    waiting.wait(SLACK_S)
    assert time.monotonic() - started < SLACK_S / 2
    waiting.close()


def test_polling_where_other_machines_write(tmp_path, monkeypatch):
    """The only thing replaced is what the kernel says of the mount: a real NFS server is not at hand."""
    monkeypatch.setattr("serve.source.file_events.type_of", lambda directory: "nfs4")
    reports = []
    waiting = FileEvents("auto", reports.append)
    for _ in range(2):
        waiting.supervise(tmp_path)
    assert len(reports) == 1
    assert "nfs4" in reports[0]
    mark(tmp_path / "m.pth")
    started = time.monotonic()
    waiting.wait(0.3)
    assert time.monotonic() - started >= 0.3
    forced = FileEvents("inotify", reports.append)
    forced.supervise(tmp_path)
    assert reports[1] == "file events"
    forced.close()
