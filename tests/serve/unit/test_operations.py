from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from trainer import mark

from serve.__main__ import main
from serve.operations import formatting
from serve.operations.timeline import Past
from serve.store.checkpoint_store import Store
from serve.store.ledger import Entry, Ledger
from serve.store.operator_requests import OperatorRequests
from serve.store.quarantine import Quarantine, Rejection
from serve.swap.host_coordinator import Coordinator

FIRST = Entry(0, "a" * 64, 10, "v1", "m.pth", 1000, "seen-1")
SECOND = replace(FIRST, sha256="b" * 64, version="v2", fingerprint="seen-2")


@pytest.fixture
def root(tmp_path):
    """The store of a server that is down, with two generations."""
    store = Store(tmp_path / "store")
    with store.lock():
        pass
    for entry in (FIRST, SECOND):
        Ledger(store).commit(entry)
        (store.root / "sha256" / entry.sha256).write_bytes(b"0123456789")
    return store.root


@pytest.fixture
def run(root, capsys):
    def run(*arguments, code=0):
        assert main([arguments[0], "--store", str(root), *arguments[1:]]) == code
        return capsys.readouterr()

    return run


def test_status_of_a_server_that_is_down(run):
    text = run("status").out
    assert "generation 2, version v2" in text
    assert "none alive" in text
    facts = json.loads(run("status", "--json").out)
    assert (facts["committed"]["version"], facts["workers"], facts["pin"]) == ("v2", [], None)


def test_the_live_view_needs_no_standard_output(root):
    argv = ["sh", "-c", 'exec "$@" >&-', "-", sys.executable, "-m", "serve", "status", "--store", str(root), "--watch"]
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run(argv, stderr=-1, timeout=3)
    assert not caught.value.stderr


@pytest.mark.parametrize(
    ("before", "after", "committed", "shown"),
    [
        (10, 30, "2026-12-01T10:20:30+00:00", ["10:20:30", "30", "10.0"]),
        (30, 10, "2026-11-30T10:20:30+00:00", ["2026-11-30", "10", "-"]),
    ],
)
def test_the_live_view_shows_when_and_how_fast(before, after, committed, shown):
    was, now = (Past(replace(FIRST, committed=committed), True, answers=count) for count in (before, after))
    size = os.terminal_size((30, 24))
    wide = formatting.screen("", (3.0, [now]), (1.0, [was]), os.terminal_size((200, 24)), "2026-12-01")
    assert wide.splitlines()[1].split()[2:5] == shown
    lines = formatting.screen("x" * 30, (3.0, [now]), (1.0, [was]), size, "2026-12-01").splitlines()
    assert max(len(line.replace("\x1b[H", "").partition("\x1b")[0]) for line in lines) == 29


def test_status_of_workers_and_refusals(run, root):
    worker = Coordinator(root, Ledger(Store(root)), 60.0)
    assert worker.join(0)
    proposal = worker.propose(replace(FIRST, version="v3", sha256="c" * 64))
    worker.membership.update(preparing=proposal.number, live=2)
    Quarantine(root, lambda: "j").add(Rejection("bad.pth", "finite", "NaN in layer.bias", "seen-9"))
    text = run("status").out
    assert f"{os.getpid()}  2           preparing" in text
    assert "proposed    generation 3, version v3" in text
    assert "NaN in layer.bias" in text
    assert json.loads(run("status", "--json").out)["workers"][0]["state"] == "preparing"


def test_history(run, root):
    (root / "sha256" / FIRST.sha256).unlink()
    history = json.loads(run("history", "--json").out)
    assert [(line["generation"], line["is_kept"]) for line in history] == [(2, True), (1, False)]
    assert run("history").out.splitlines()[1].split()[:2] == ["2", "v2"]


def test_a_rollback_while_the_server_is_down_is_committed_at_once(run, root):
    assert "version v1 is live as generation 3" in run("rollback").out
    last = Ledger(Store(root)).last()
    assert (last.sha256, last.cause, last.order) == (FIRST.sha256, "rollback", FIRST.order)
    assert "generation 4" in run("rollback", "--to", "v2").out


def test_a_host_of_a_fleet_whose_server_is_down_rolls_nothing_back(run, root):
    (root / "fleet.lock").touch()
    assert "of a fleet, and its server is down" in run("rollback", code=3).err
    assert [entry.version for entry in Ledger(Store(root)).read()] == ["v1", "v2"]


def test_a_rollback_that_is_not_possible(run, root):
    assert "can be rolled back to: v1" in run("rollback", "--to", "v9", code=3).err
    assert run("rollback", "--to", "v2", code=3).err, "it is the committed one"
    (root / "sha256" / FIRST.sha256).unlink()
    assert "not in the store" in run("rollback", code=3).err


def test_a_rollback_that_no_worker_carries_out_is_withdrawn(run, root):
    Coordinator(root, Ledger(Store(root)), 60.0).join(0)
    # The agreement above is not referenced any more, but its lock is held as long as the process lives.
    assert "still open" in run("rollback", "--timeout", "0.2", code=1).err
    assert OperatorRequests(root).rollback() is None


def test_pin_and_unpin(run, root):
    assert "pinned to version v2" in run("pin", "--reason", "an audit").out
    assert "an audit" in run("status").out
    assert json.loads(run("unpin", "--json").out) == {"was_pinned": True}
    assert run("unpin").out == "there was no pin\n"


def test_without_a_store_there_is_an_error_and_a_hint(tmp_path, capsys):
    assert main(["status", "--store", str(tmp_path / "nowhere")]) == 3
    assert "hint: start the server once" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_verify(trainer, capsys):
    good = trainer.publish(1)
    assert main(["verify", str(trainer.directory)]) == 0
    assert good.sha256[:12] in capsys.readouterr().out
    two = trainer.publish(2)
    path = trainer.directory / "model_2.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    mark(trainer.directory / "absent.pth")
    mark(trainer.train(3, "text.pth"), b"text").replace(trainer.directory / "text.pth.done")
    assert main(["verify", str(trainer.directory), "--json"]) == 1
    found = {line["path"].rpartition("/")[2]: line["problem"] for line in json.loads(capsys.readouterr().out)}
    assert f"expected {two.sha256}" in found["model_2.safetensors"]
    assert found["model_1.safetensors"] is None
    assert "found nothing" in found["absent.pth"]
    assert "neither empty nor JSON" in found["text.pth"]
