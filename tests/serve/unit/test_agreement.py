from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace

import pytest

from serve.store.checkpoint_store import Store
from serve.store.ledger import Entry, Ledger
from serve.swap.host_coordinator import Coordinator, ProposalState

FIRST = Entry(0, "a" * 64, 10, "v1", "m.pth", 1000, "seen-1")
SECOND = replace(FIRST, sha256="b" * 64, version="v2", fingerprint="seen-2")


@pytest.fixture
def open_coordinator(tmp_path):
    """Each agreement stands for one worker: locks belong to the open file, not to the process."""

    def open_one(timeout_s=60.0):
        root = tmp_path / "store"
        return Coordinator(root, Ledger(Store(root)), timeout_s)

    return open_one


@pytest.fixture
def ledger(tmp_path):
    return Ledger(Store(tmp_path / "store"))


def prepare(worker, proposal):
    worker.membership.update(preparing=proposal.number)
    worker.membership.update(prepared=proposal.number)


def test_all_move_when_the_last_one_is_prepared(open_coordinator, ledger):
    one, other = open_coordinator(), open_coordinator()
    assert one.join(0)
    assert other.join(0)
    proposal = one.propose(FIRST)
    assert other.open_proposal() == proposal
    prepare(one, proposal)
    assert not one.try_commit(proposal)
    assert one.late(proposal) == [os.getpid()]
    assert (other.shared_state.committed, other.state_of(proposal)) == (0, ProposalState.WAITING)
    prepare(other, proposal)
    assert one.try_commit(proposal)
    assert one.shared_state.committed == other.shared_state.committed == ledger.last().generation == 1
    assert one.state_of(proposal) is other.state_of(proposal) is ProposalState.COMMITTED
    assert not other.try_commit(proposal)
    assert other.open_proposal() is None


def test_one_proposal_at_a_time(open_coordinator):
    one, other = open_coordinator(), open_coordinator()
    one.join(0)
    first = one.propose(FIRST)
    assert other.propose(SECOND) == first


def test_the_committed_content_is_not_proposed_again(open_coordinator):
    one = open_coordinator()
    one.join(0)
    prepare(one, one.propose(FIRST))
    assert one.try_commit(one.open_proposal())
    assert one.propose(replace(FIRST, fingerprint="touched")) is None


def test_a_closed_proposal_moves_nobody(open_coordinator, ledger):
    one, other = open_coordinator(), open_coordinator()
    one.join(0)
    other.join(0)
    proposal = one.propose(FIRST)
    prepare(one, proposal)
    prepare(other, proposal)
    assert other.close(proposal)
    assert not one.close(proposal)
    assert not one.try_commit(proposal)
    assert one.state_of(proposal) is ProposalState.CLOSED
    assert ledger.last() is None
    # A later proposal has the same generation, and must not be taken for the closed one.
    again = one.propose(SECOND)
    prepare(one, again)
    prepare(other, again)
    assert one.try_commit(again)
    assert again.entry.generation == proposal.entry.generation
    assert one.state_of(proposal) is ProposalState.CLOSED


def test_who_leaves_is_not_waited_for(open_coordinator):
    one, other = open_coordinator(), open_coordinator()
    one.join(0)
    other.join(0)
    proposal = one.propose(FIRST)
    prepare(one, proposal)
    other.membership.leave()
    assert one.try_commit(proposal)


def test_who_comes_late_must_have_the_committed_generation(open_coordinator):
    one, late = open_coordinator(), open_coordinator()
    one.join(0)
    prepare(one, one.propose(FIRST))
    one.try_commit(one.open_proposal())
    prepare(one, one.propose(SECOND))
    one.try_commit(one.open_proposal())
    assert not late.join(1)
    assert late.join(2)


def test_who_joins_while_a_proposal_is_open_is_waited_for(open_coordinator):
    one, late = open_coordinator(), open_coordinator()
    one.join(0)
    proposal = one.propose(FIRST)
    prepare(one, proposal)
    late.join(0)
    assert not one.try_commit(proposal)


def run_worker(root, number_of_signal, is_preparing):
    worker = Coordinator(root, Ledger(Store(root)), 60.0)
    worker.join(0)
    proposal = worker.open_proposal()
    if is_preparing:
        worker.membership.update(preparing=proposal.number)
    os.kill(os.getpid(), number_of_signal)
    time.sleep(60)


def start_worker(root, number_of_signal, is_preparing=True):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=run_worker, args=(root, number_of_signal, is_preparing))
    process.start()
    return process


def test_the_dead_are_not_waited_for_and_the_stopped_are(open_coordinator, tmp_path):
    one = open_coordinator()
    one.join(0)
    proposal = one.propose(FIRST)
    prepare(one, proposal)
    process = start_worker(tmp_path / "store", signal.SIGSTOP)
    while len(one.membership.survey().alive) < 2:
        time.sleep(0.01)
    assert not one.try_commit(proposal)
    process.kill()
    process.join()
    until_s = time.monotonic() + 10
    while not one.try_commit(proposal):
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_the_second_death_closes_the_proposal(open_coordinator, tmp_path):
    one = open_coordinator()
    one.join(0)
    proposal = one.propose(FIRST)
    start_worker(tmp_path / "store", signal.SIGKILL, is_preparing=False).join()
    assert one.reap() is None, "it died of something else"
    for found in (None, (proposal.entry, 2)):
        start_worker(tmp_path / "store", signal.SIGKILL).join()
        assert open_coordinator().reap() == found
    assert one.state_of(proposal) is ProposalState.CLOSED


def test_all_killed_between_ledger_and_word(open_coordinator, ledger):
    one = open_coordinator()
    one.join(0)
    proposal = one.propose(FIRST)
    ledger.append(proposal.entry)
    one.membership._let_go()  # as the kernel does
    late = open_coordinator()
    assert late.shared_state.committed == 0
    assert late.join(1)
    assert late.shared_state.committed == 1
    assert late.open_proposal() is None


def test_one_killed_between_ledger_and_word(open_coordinator, ledger):
    one, other = open_coordinator(), open_coordinator()
    one.join(0)
    other.join(0)
    proposal = one.propose(FIRST)
    prepare(one, proposal)
    prepare(other, proposal)
    ledger.append(proposal.entry)
    one.membership._let_go()
    assert other.try_commit(proposal)
    assert other.shared_state.committed == 1
    assert len(ledger.read()) == 1


def test_a_forked_child_does_not_keep_a_dead_worker_alive(tmp_path):
    code = """if True:
        import os, sys, time
        from pathlib import Path
        from serve.swap.host_coordinator import Coordinator
        from serve.store.ledger import Ledger
        from serve.store.checkpoint_store import Store
        root = Path(sys.argv[1])
        Coordinator(root, Ledger(Store(root)), 1.0).join(0)
        if os.fork() == 0:
            print(os.getpid(), flush=True)
            time.sleep(60)
        os._exit(0)
    """
    import subprocess
    import sys

    root = tmp_path / "store"
    with subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE) as worker:
        child = int(worker.stdout.readline())
        worker.wait()
        survey = Coordinator(root, Ledger(Store(root)), 1.0).membership.survey()
        os.kill(child, signal.SIGKILL)
    assert survey.alive == {}
    assert len(survey.dead) == 1
