"""What is refused for ever and what is tried again; and that neither of them fills the store."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import threading
import time

import bare
import pytest
from trainer import mark

from serve.errors import CheckpointError, MemoryShortError, ModelError, TrialError
from serve.store import checkpoint_store, quarantine
from serve.store.ledger import Entry
from serve.swap import generation

PASSING = [
    TrialError("warm-up", "still running"),
    TrialError("validate", "ConnectionError: the data base is away"),
    TrialError("golden", "expected an answer, found OSError"),
    TrialError("interface", "another form than what is live"),
    ModelError("building it failed: FileNotFoundError"),
    MemoryShortError("too little"),
    OSError(5, "the file server is gone"),
    RuntimeError("CUDA error"),
]
PROVEN = ["content", "damaged", "finite", "format", "hash", "pickle", "signature", "size"]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "ck").mkdir()
    return tmp_path / "ck"


@pytest.fixture
def never(monkeypatch):
    """Nothing is tried again by itself while the test runs."""
    monkeypatch.setattr(quarantine, "_FIRST_RETRY_S", 1000.0)
    monkeypatch.setattr(quarantine, "_LONGEST_RETRY_S", 1000.0)
    monkeypatch.setattr(quarantine, "_LONGEST_COSTLY_RETRY_S", 1000.0)


def put(place, name, content):
    (place / name).write_bytes(content)
    mark(place / name)
    time.sleep(0.005)  # the clock of files ticks every 4 ms
    return place / name


def refuse(tmp_path, place, error, **options):
    worker = bare.Worker(tmp_path / "store", place, **options)
    worker.loader.faults[b"x"] = error
    put(place, "x", b"x")
    worker.look()
    assert worker.live is None
    assert len(worker.log.of("refused")) == 1
    return worker


def ids(error):
    return f"{type(error).__name__}-{getattr(error, 'code', '')}"


@pytest.mark.parametrize("commit_mode", ["host", "worker"])
@pytest.mark.parametrize("error", PASSING, ids=ids)
def test_what_may_pass_is_tried_until_it_has_passed(tmp_path, place, error, commit_mode, monkeypatch):
    monkeypatch.setattr(quarantine, "_FIRST_RETRY_S", 0.01)
    worker = refuse(tmp_path, place, error, commit=commit_mode)
    for _ in range(3):
        time.sleep(0.05)
        worker.look()
    assert worker.log.of("refused")[0]["will_retry"]
    assert len(worker.log.of("refused")) == 1, "it was said again"
    assert len(worker.loader.loads) > 1
    worker.loader.faults.clear()
    until_s = time.monotonic() + 20
    while worker.live is None and time.monotonic() < until_s:
        time.sleep(0.02)
        worker.look()
    assert worker.live == b"x"
    assert worker.quarantine.records() == []


def ask_again(how, worker, place):
    if how == "touch":
        os.utime(place / "x.done", (time.time() + 1, time.time() + 1))
    elif how == "publish":
        put(place, "again", b"x")
    elif how == "retry":
        assert [record.name for record in worker.operations().retry("x")] == ["x"]
    else:
        worker.leave()
        return bare.Worker(worker.store.root, place, start="another")
    return worker


@pytest.mark.parametrize("how", ["touch", "publish", "retry", "restart"])
@pytest.mark.parametrize("error", PASSING, ids=ids)
def test_a_request_to_look_again_is_heard_at_once(tmp_path, place, error, how, never):
    worker = refuse(tmp_path, place, error)
    worker.loader.faults.clear()
    worker.look()
    assert worker.live is None, "its pause is not over"
    worker = ask_again(how, worker, place)
    worker.look()
    assert worker.live == b"x"


@pytest.mark.parametrize("how", ["touch", "publish", "restart"])
@pytest.mark.parametrize("code", PROVEN)
def test_what_the_bytes_prove_lasts(tmp_path, place, code, how):
    worker = refuse(tmp_path, place, CheckpointError(code, "bad"))
    assert not worker.log.of("refused")[0]["will_retry"]
    if code in ("format", "signature"):
        return  # these may lie in the marker
    worker = ask_again(how, worker, place)
    before = len(worker.loader.loads)
    worker.loader.faults.clear()
    worker.look()
    assert worker.live is None
    assert len(worker.loader.loads) == before


@pytest.mark.parametrize("code", ["architecture", "golden"])
def test_what_depends_on_code_is_judged_anew_by_another_start(tmp_path, place, code):
    worker = refuse(tmp_path, place, CheckpointError(code, "bad"))
    worker.loader.faults.clear()
    os.utime(place / "x.done", (time.time() + 1, time.time() + 1))
    worker.look()
    assert worker.live is None
    worker = ask_again("restart", worker, place)
    worker.look()
    assert worker.live == b"x"


def test_a_proof_is_not_taken_back_by_a_worker_whose_copy_has_gone():
    bad = quarantine.Rejection("m", "finite", "NaN", "f", sha256="a" * 64)
    gone = quarantine.Rejection("m", "FileNotFoundError", "gone", "f", sha256="a" * 64, is_lasting=False)
    records, _ = quarantine.add_rejection({}, bad, "j", 1.0)
    assert quarantine.add_rejection(records, gone, "j", 2.0) == (records, False)


def test_it_leaves_the_lists_with_its_file(tmp_path, place, monkeypatch):
    monkeypatch.setattr(quarantine, "_GRACE_S", 0.0)
    worker = refuse(tmp_path, place, CheckpointError("finite", "NaN"))
    assert [record.name for record in worker.operations().status().quarantine] == ["x"]
    (place / "x").unlink()
    (place / "x.done").unlink()
    worker.look()
    assert worker.operations().status().quarantine == ()


def stored(worker):
    return {worker.store.find(name).path.read_bytes() for name in worker.store.entries()}


@pytest.mark.parametrize("commit_mode", ["host", "worker"])
def test_what_was_refused_leaves_the_store_at_once(tmp_path, place, commit_mode):
    worker = bare.Worker(tmp_path / "store", place, commit=commit_mode)
    put(place, "good", b"good")
    worker.look()
    for number in range(3):
        content = b"bad %d" % number
        worker.loader.faults[content] = CheckpointError("finite", "NaN")
        put(place, f"bad{number}", content)
        worker.look()
        assert stored(worker) == {b"good"}
    assert worker.live == b"good"


@pytest.mark.usefixtures("never")
def test_a_copy_that_is_not_whole_yet_proves_nothing_of_the_bytes_that_another_host_proposes(tmp_path, place):
    worker = bare.Worker(tmp_path / "store", place)
    sha256 = hashlib.sha256(b"whole").hexdigest()
    (place / "x").write_bytes(b"who")
    mark(place / "x", b'{"sha256": "%s"}' % sha256.encode())
    assert worker.committer._coordinator.propose(Entry(0, sha256, 5, "v1", "x", 0, "another host's")) is not None
    assert worker.committer.attend(worker.loader)
    (refused,) = worker.log.of("refused")
    assert (refused["sha256"], refused["will_retry"]) == (sha256, True)
    assert "x: the sha256: expected" in refused["reason"]


def test_what_is_refused_by_its_header_is_not_copied(tmp_path, place):
    worker = bare.Worker(tmp_path / "store", place)
    put(place, "x", b"another architecture")
    worker.look()
    assert [(line["code"], line["checkpoint"]) for line in worker.log.of("refused")] == [
        ("architecture", str(place / "x"))
    ]
    assert worker.store.entries() == {}
    assert worker.loader.previewed == ["x"], "once, and not at each look"


def test_what_is_to_be_tried_again_leaves_with_its_file_and_at_boot(tmp_path, place, never, monkeypatch):
    for module in (generation, checkpoint_store):
        monkeypatch.setattr(module, "_FRESH_S", 0.0)
    monkeypatch.setattr(quarantine, "_GRACE_S", 0.0)
    worker = refuse(tmp_path, place, TrialError("warm-up", "busy"))
    assert stored(worker) == {b"x"}
    assert "to be tried again" in worker.operations().occupants()[0].why
    (place / "x.done").unlink()
    worker.look()
    assert worker.store.entries() == {}
    (worker.store.proven / ("0" * 64)).write_bytes(b"what an older version left")
    (worker.store.incoming / "1.part").write_bytes(b"what a killed copier left")
    worker.leave()
    assert bare.Worker(worker.store.root, place).store.entries() == {}


@pytest.fixture
def disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("a small file system of its own needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], stderr=-1, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_refused_ones_on_a_small_disk_never_keep_a_good_one_out(tmp_path, place, disk, never, monkeypatch):
    monkeypatch.setattr(checkpoint_store, "_FRESH_S", 0.0)
    worker = bare.Worker(disk / "store", place, keep=1)
    errors = [CheckpointError("finite", "NaN"), TrialError("warm-up", "busy"), ModelError("building failed")]
    for number in range(9):
        content = b"%d" % number * 250_000
        worker.loader.faults[content] = errors[number % 3]
        put(place, f"bad{number}", content)
        worker.look()
    assert {line["code"] for line in worker.log.of("refused")} == {"finite", "warm-up", "model"}, worker.log
    good = b"g" * 250_000
    put(place, "good", good)
    worker.look()
    assert worker.live == good


def test_a_full_disk_that_is_emptied_is_used(tmp_path, place, disk, monkeypatch):
    monkeypatch.setattr(quarantine, "_FIRST_RETRY_S", 0.01)
    worker = bare.Worker(disk / "store", place)
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(b"0" * 4096):
            continue
    put(place, "x", b"x" * 300_000)
    worker.look()
    assert worker.live is None
    (disk / "filler").unlink()
    time.sleep(1.0)
    worker.look()
    assert worker.live == b"x" * 300_000


def test_the_operators_see_what_occupies_the_store(tmp_path, place, capsys):
    from serve.__main__ import main

    worker = bare.Worker(tmp_path / "store", place)
    for content in (b"one", b"two two"):
        put(place, "m", content)
        worker.look()
    assert main(["store", "--store", str(tmp_path / "store")]) == 0
    first, second, third = capsys.readouterr().out.splitlines()[1:]
    assert "served: generation 2" in first
    assert "kept: generation 1" in second
    assert third.startswith("2 checkpoints, 10 bytes")


def test_who_asks_for_a_look_can_wait_for_what_comes_of_it(tmp_path, place):
    worker = bare.Worker(tmp_path / "store", place, boot=False)
    worker.loader.faults[b"bad"] = CheckpointError("finite", "NaN")
    thread = threading.Thread(target=worker.reloader.run, daemon=True)
    thread.start()

    def load():
        outcome = worker.reloader.wait_for(worker.reloader.look_now(), 20)
        return outcome.is_live, outcome.is_refused, outcome.verdict

    assert load()[:2] == (False, False), "nothing is live"
    put(place, "1-good", b"good")
    assert load()[:2] == (True, False)
    assert worker.live == b"good"
    put(place, "2-worse", b"bad")
    outcome = load()
    assert (outcome[:2], worker.live) == ((True, True), b"good")
    assert "NaN" in outcome[2]
    put(place, "3-better", b"better")
    assert load()[:2] == (True, False)
    assert worker.live == b"better"
    worker.leave()
    thread.join(5)
    assert not thread.is_alive()


def test_weights_are_proven_as_often_as_the_policy_asks(tmp_path, place):
    worker = bare.Worker(tmp_path / "store", place)
    (place / "a").write_bytes(b"one")
    mark(place / "a")
    worker.look()
    assert worker.live == b"one"
    compared = []
    go_on = threading.Event()
    worker.loader.compare = lambda model: (compared.append(model), go_on.wait(10)) and (1, [])
    worker.look()
    assert compared == []
    worker.reloader._context.policy.live_proof_s = 1e-6
    worker.look(1)
    until_s = time.monotonic() + 10
    while not compared and time.monotonic() < until_s:
        time.sleep(0.01)
    worker.look(1)
    time.sleep(0.05)
    assert compared == [b"one"], "the next one waits for the end of the first one"
    go_on.set()
    worker.leave()


def test_a_worker_is_behind_until_no_generation_is_committed_without_it(tmp_path, place):
    first, late = bare.Worker(tmp_path / "store", place), bare.Worker(tmp_path / "store", place, boot=False)

    def publish(content):
        (place / content).write_bytes(content.encode())
        mark(place / content)
        first.look()

    publish("one")
    may_join, coordinator = threading.Event(), late.committer._coordinator
    join = coordinator.join
    coordinator.join = lambda live: may_join.is_set() and join(live)
    booting = threading.Thread(target=late.reloader._boot, args=(late.loader,), daemon=True)
    booting.start()
    while late.live != b"one":
        time.sleep(0.01)
    # It could answer now; but the others would move on without it.
    assert late.reloader.is_behind
    publish("two")
    assert first.live == b"two"
    may_join.set()
    booting.join(30)
    assert (late.live, late.reloader.is_behind) == (b"two", False)
    first.leave()
    late.leave()
