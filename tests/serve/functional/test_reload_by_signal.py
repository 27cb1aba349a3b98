"""`kill -HUP` under load: nobody waits for the new workers, and new workers that are no good never replace the old."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time

import pytest
from serving import SUPPORT, Load, assert_answers, wait_until
from trainer import ROW

pytestmark = pytest.mark.needs_torch


@pytest.fixture
def served(start_server, trainer, tmp_path):
    """A server with its model class in a directory of its own, where it can be broken."""
    code = tmp_path / "code"
    code.mkdir()
    shutil.copy(SUPPORT / "affine.py", code / "affine.py")
    trainer.publish(1)
    server = start_server(python_path=code, workers=2, is_fresh=True)
    server.wait_live(1)
    return server, code / "affine.py"


def hang_up(server):
    os.kill(server.process.pid, signal.SIGHUP)


def new_workers(server, old):
    return wait_until(lambda: [pid for pid in server.workers() if pid not in old], "a new worker", lambda: server.text)


@pytest.mark.both_workers
def test_the_old_workers_answer_until_the_new_ones_take_requests(served, trainer):
    server, _ = served
    old = set(server.workers())
    with Load(server, ROW, threads=4) as load:
        load.wait_for_more(50)
        hang_up(server)
        wait_until(lambda: not old & set(server.workers()), "the end of the old workers", lambda: server.text)
        load.wait_for_more(50)
    assert_answers(load, trainer)
    new = server.workers()
    assert len(new) == 2
    first_end = min(server.text.index(told) for told in re.findall(r"Worker exiting \(pid: \d+\)", server.text))
    for pid in new:
        assert re.search(rf'"event": "restored", "worker": {pid}', server.text[:first_end])
    waits = sorted(reply.received_s - reply.sent_s for reply in load.all())
    print(f"longest wait {waits[-1] * 1000:.0f} ms of {len(waits)} requests")


BROKEN = {"no import": "raise ImportError('broken')\n", "a death": "import os\nos._exit(3)\n"}


@pytest.mark.parametrize("how", BROKEN)
def test_new_workers_that_cannot_load_do_not_replace_the_old(served, trainer, how):
    server, code = served
    whole, old = code.read_text(), set(server.workers())
    with Load(server, ROW, threads=2) as load:
        code.write_text(BROKEN[how])
        hang_up(server)
        new = new_workers(server, old)
        server.wait_for_text("(the reload is given up, and the workers stay)")
        wait_until(lambda: set(server.workers()) == old, "the end of the new workers", lambda: server.text)
        code.write_text(whole)
        hang_up(server)
        wait_until(lambda: not {*old, *new} & set(server.workers()), "the second reload", lambda: server.text)
        load.wait_for_more(20)
    assert_answers(load, trainer)


@pytest.mark.parametrize("how", ["killed", "slow"])
def test_a_new_worker_that_dies_or_takes_too_long_does_not_replace_the_old(start_server, trainer, tmp_path, how):
    settings = {"boot_wait_s": 1} if how == "slow" else {}
    code = tmp_path / "code"
    code.mkdir()
    shutil.copy(SUPPORT / "affine.py", code / "affine.py")
    trainer.publish(1)
    server = start_server(python_path=code, **settings)
    server.wait_live(1)
    old = set(server.workers())
    with Load(server, ROW, threads=2) as load:
        with (code / "affine.py").open("a") as file:
            file.write("import time\ntime.sleep(30)\n")
        hang_up(server)
        if how == "killed":
            os.kill(new_workers(server, old)[0], signal.SIGKILL)
        server.wait_for_text("(the reload is given up, and the workers stay)")
        wait_until(lambda: set(server.workers()) == old, "the end of the new workers", lambda: server.text)
        load.wait_for_more(20)
    assert_answers(load, trainer)


def test_a_death_during_the_wait(served, trainer):
    server, _ = served
    old = server.workers()
    with Load(server, ROW, threads=2) as load:
        hang_up(server)
        new_workers(server, set(old))
        os.kill(old[0], signal.SIGKILL)
        wait_until(lambda: not set(old) & set(server.workers()), "the end of the old workers", lambda: server.text)
        wait_until(lambda: len(server.workers()) == 2, "two workers", lambda: server.text)
        load.wait_for_more(20)
    assert_answers(load, trainer, failures=2)  # those that the killed worker had in hand


def test_an_order_to_end_during_the_wait(served):
    server, _ = served
    old = set(server.workers())
    hang_up(server)
    new_workers(server, old)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0


@pytest.mark.parametrize("how", ["no import", "slow"])
def test_a_worker_that_cannot_answer_takes_no_request_that_another_one_could(start_server, trainer, tmp_path, how):
    code = tmp_path / "code"
    code.mkdir()
    shutil.copy(SUPPORT / "affine.py", code / "affine.py")
    trainer.publish(1)
    server = start_server(python_path=code, boot_wait_s=0.5)
    server.wait_live(1)
    old, whole = server.workers(), (code / "affine.py").read_text()
    late = f"import time, pathlib\nwhile not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.05)\n"
    (code / "affine.py").write_text(BROKEN["no import"] if how == "no import" else whole + late)
    with Load(server, ROW, threads=4) as load:
        os.kill(old[0], signal.SIGKILL)
        (new,) = new_workers(server, set(old))
        if how == "no import":
            server.wait_for_text(f'("event": "stopped", "worker": {new})')
        time.sleep(1.5)  # beyond boot_wait_s; two of the threads make a connection for each request
        (tmp_path / "go").touch()
        if how == "slow":
            server.wait_for_text(f'("event": "restored", "worker": {new})')
    assert_answers(load, trainer, failures=4)  # those that the killed worker had in hand
    if how == "no import":  # it would answer 503 where it is the only one
        os.kill(old[1], signal.SIGKILL)
        wait_until(lambda: server.client().predict([ROW]).status == 503, "the refusal", lambda: server.text)
