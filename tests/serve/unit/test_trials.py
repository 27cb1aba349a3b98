"""Trials of generations: the way back in the shared state, in the slot, and what the workers count."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace

import pytest
from predictors import Times, go_live, make_server

from serve.checkpoint.provenance import Provenance
from serve.errors import InputError
from serve.http.messages import Response
from serve.inference.prediction import RETRIED, Prediction, complete
from serve.model.slot import Generation, Slot
from serve.rollout.evidence_board import SUSPECTED_PAIRS, EvidenceBoard, Guard
from serve.store.checkpoint_store import Store
from serve.store.ledger import RETURN, ROLLBACK, Entry, Ledger
from serve.swap.host_coordinator import Coordinator, ProposalState

ENTRIES = [Entry(0, letter * 64, 10, f"v-{letter}", "m.pth", 1000, f"seen-{letter}") for letter in "abcd"]
A, B, C, D = ENTRIES


@pytest.fixture
def open_worker(tmp_path):
    """Each coordinator stands for one worker: locks belong to the open file, not to the process."""

    def open_one(has_trials=True):
        root = tmp_path / "store"
        return Coordinator(root, Ledger(Store(root)), 60.0, has_trials)

    return open_one


@pytest.fixture
def ledger(tmp_path):
    return Ledger(Store(tmp_path / "store"))


def commit(worker, entry):
    proposal = worker.propose(entry)
    worker.membership.update(prepared=proposal.number)
    assert worker.try_commit(proposal)


def trial_of(worker):
    shared_state = worker.shared_state
    return shared_state.on_trial, shared_state.kept


def joined(worker):
    assert worker.join(0)
    return worker


def test_a_return_is_a_new_generation_with_the_old_bytes(open_worker, ledger):
    one, other = joined(open_worker()), open_worker()
    commit(one, A)
    assert trial_of(one) == (0, 0)  # there is nothing to go back to
    commit(one, B)
    assert trial_of(other) == (2, 1)
    assert other.take_back(1) is None
    returned = other.take_back(2)
    assert (returned.generation, returned.sha256, returned.version, returned.cause) == (3, A.sha256, "v-a", RETURN)
    assert (one.shared_state.committed, one.shared_state.returned, trial_of(one)) == (3, 3, (0, 1))
    assert one.take_back(2) is None  # another worker was faster
    assert [entry.generation for entry in ledger.read()] == [1, 2, 3]


def test_only_what_has_held_is_returned_to(open_worker):
    one = joined(open_worker())
    for entry in (A, B, C):
        commit(one, entry)
    assert trial_of(one) == (3, 1)
    assert not one.end_trial(2)
    assert one.end_trial(3)
    assert not one.end_trial(3)
    commit(one, D)
    assert trial_of(one) == (4, 3)
    assert one.take_back(4).sha256 == C.sha256


def test_a_return_closes_what_is_proposed(open_worker):
    one = joined(open_worker())
    commit(one, A)
    commit(one, B)
    proposal = one.propose(C)
    one.membership.update(prepared=proposal.number)
    assert one.take_back(2).generation == proposal.entry.generation == 3
    assert one.state_of(proposal) is ProposalState.CLOSED
    assert not one.try_commit(proposal)
    commit(one, C)
    assert trial_of(one) == (4, 3)


def test_an_operators_rollback_is_not_on_trial(open_worker):
    one = joined(open_worker())
    commit(one, A)
    commit(one, B)
    commit(one, replace(A, cause=ROLLBACK, fingerprint="rollback:1"))
    assert trial_of(one) == (0, 0)


def test_no_trial_where_none_is_wanted(open_worker):
    one = joined(open_worker(has_trials=False))
    commit(one, A)
    commit(one, B)
    assert trial_of(one) == (0, 0)


class DyingCells:
    """The cells of a worker that is killed after some stores."""

    def __init__(self, cells, stores):
        self._cells, self._left = cells, stores

    def __getitem__(self, place):
        return self._cells[place]

    def __setitem__(self, place, value):
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        self._cells[place] = value


@pytest.mark.parametrize("stores", range(3))
def test_killed_between_ledger_and_word(open_worker, ledger, monkeypatch, stores):
    """After the ledger, and after each of the stores that follow: whoever looks next finds or finishes the return."""
    one, other = joined(open_worker()), open_worker()
    commit(one, A)
    commit(one, B)
    with monkeypatch.context() as patch:
        cells = DyingCells(one.shared_state.cells, stores)
        patch.setattr(one.shared_state, "cells", cells)
        with pytest.raises(KeyboardInterrupt):
            one.take_back(2)
    assert ledger.last().generation == 3
    other.take_back(2)
    assert [entry.cause for entry in ledger.read()] == ["checkpoint", "checkpoint", RETURN]
    assert (other.shared_state.committed, other.shared_state.returned) == (3, 3)
    commit(one, C)
    assert trial_of(one) == (4, 3)


def test_all_killed_between_ledger_and_word(open_worker, ledger):
    one = joined(open_worker())
    commit(one, A)
    commit(one, B)
    ledger.append(replace(A, generation=3, cause=RETURN))
    one.membership._let_go()
    again = open_worker()
    assert again.join(3)
    assert (again.shared_state.committed, trial_of(again)) == (3, (0, 0))


def test_a_server_that_starts_anew_begins_the_trial_again(open_worker):
    one = joined(open_worker())
    commit(one, A)
    commit(one, B)
    one.shared_state.trial_since_ms = 5
    one.membership._let_go()
    again = open_worker()
    assert again.join(2)
    assert trial_of(again) == (2, 1)
    assert again.shared_state.trial_since_ms > 5


@pytest.mark.parametrize(("is_of_this_server", "crashes"), [(True, 2), (False, 0)])
def test_workers_that_die_count_where_their_server_lives_on(open_worker, is_of_this_server, crashes):
    one = joined(open_worker())
    commit(one, A)
    commit(one, B)
    for _ in range(2):
        dying = open_worker()
        assert dying.join(2)
        if not is_of_this_server:
            dying.membership.update(parent=1)
        dying.membership._let_go()
        one.reap()
    assert one.shared_state.crashes == crashes


def generation(number, predictor=None):
    return Generation(predictor or Times(number), Provenance("m", f"v{number}", number, "a" * 64, None), {})


class Word:
    """A commit word, and the way back."""

    def __init__(self):
        self.committed, self.kept, self.returned = 1, 0, 0
        self.slot = Slot(self)
        self.slot.swap(generation(1))

    @property
    def word(self):
        return [self.committed]

    def commit(self, number):
        self.slot.stand_by(generation(number))
        self.kept, self.committed = self.committed, number

    def go_back(self):
        self.returned = self.committed = self.committed + 1


@pytest.mark.parametrize("has_moved", [True, False])
def test_a_slot_goes_back_at_once(has_moved):
    word = Word()
    old = word.slot.live
    with word.slot.lease():
        word.commit(2)
        if has_moved:
            assert word.slot.live.provenance.generation == 2
            assert word.slot.take_drained() == []
        word.go_back()
        live = word.slot.live
        assert (live.provenance.generation, live.predictor, live.facts["cause"]) == (3, old.predictor, "return")
    drained = [one.provenance.generation for one in word.slot.take_drained()]
    assert drained == ([2] if has_moved else [])


def test_what_comes_back_is_not_freed_under_a_request_of_its_first_number():
    word = Word()
    held = word.slot.acquire()
    word.commit(2)
    assert word.slot.live.provenance.generation == 2
    word.go_back()
    assert word.slot.live.predictor is held.predictor
    word.commit(4)
    word.kept = 0
    assert word.slot.live.provenance.generation == 4
    assert [one.provenance.generation for one in word.slot.take_drained()] == [2]
    word.slot.release(held)
    assert [one.provenance.generation for one in word.slot.take_drained()] == [3]


def test_a_worker_without_the_way_back_answers_nothing_rather_than_the_bad_one():
    word = Word()
    word.commit(2)
    assert word.slot.live.provenance.generation == 2
    assert word.slot.let_go()
    word.go_back()
    assert word.slot.live is None


def test_what_is_kept_drains_when_the_trial_has_ended():
    word = Word()
    word.commit(2)
    assert word.slot.live.provenance.generation == 2
    assert word.slot.let_go()
    assert not word.slot.let_go()
    assert [one.provenance.generation for one in word.slot.take_drained()] == [1]


def test_the_board_adds_up_the_rows_of_living_and_dead(tmp_path):
    one, other = EvidenceBoard(tmp_path), EvidenceBoard(tmp_path)
    one.note_run(0, 7, 4, 4, 0.01)
    other.note_run(1, 7, 2, 2, 0.01)
    other.note_run(1, 6, 9, 1, 0.01)
    one.note_bad(0, 7, "finite")
    one.note_bad(0, 7, "disagreed", 0)
    found = one.read(7, 6, 0.0)
    assert (found.answers, found.counts["finite"], found.counts["disagreed"]) == (6, (1, 6), (0, 1))
    assert (sum(map(sum, found.times)), sum(map(sum, found.times_before))) == (2, 1)
    one.note_run(0, 8, 1, 1, 0.01)
    one.note_run(0, 9, 1, 1, 0.01)  # takes the place of the older section
    assert one.read(7, 0, 0.0).answers == 2
    assert (one.read(8, 0, 0.0).answers, one.read(9, 0, 0.0).answers) == (1, 1)


def test_no_count_is_lost_between_threads_and_processes(tmp_path):
    board = EvidenceBoard(tmp_path)

    def count(row):
        mine = EvidenceBoard(tmp_path)
        for _ in range(2000):
            mine.note_run(row, 5, 1, 1, 0.001)

    processes = [multiprocessing.get_context("fork").Process(target=count, args=(row,)) for row in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert board.read(5, 0, 0.0).answers == 6000


class Failing(Times):
    """Raises, or answers what is not finite."""

    def run(self, taken):
        if self.factor == "raise":
            raise RuntimeError("bad")
        if self.factor == "refuse":
            raise InputError("the client's fault")
        return taken * float("nan") if self.factor == "nan" else super().run(taken)

    def find_fault(self, taken, given):
        return ("finite", "") if (given != given).any() else None


class Dialect:
    def write(self, predictor, given, provenance):
        return Response(200, {}, json.dumps(predictor.postprocess(given)).encode())


@pytest.fixture
def ask(tmp_path):
    """Ask a server whose generation 2 is on trial, with a predictor for it and for the one before."""

    def ask(new, old, retry="finite", times=1):
        server = make_server(tmp_path, f'model = "m:M"\ncheckpoints = "ck"\nretry_spoiled = "{retry}"\n')
        (model,) = server.models.values()
        instance = model.stable
        word = instance.shared_state.word
        word[0] = instance.shared_state.kept = 1
        go_live(instance, Failing(old), generation=1)
        instance.slot.stand_by(Generation(Failing(new), Provenance("m", "v2", 2, "b" * 64, "d"), {}))
        word[0] = 2
        board = EvidenceBoard(tmp_path)
        instance.guard.open(board, 0, lambda: (2, 0))
        answers = []
        for _ in range(times):
            leased = instance.slot.acquire()
            take = lambda predictor: predictor.prepare([1, 2])  # noqa: E731
            prediction = Prediction(instance, leased, take(leased.predictor), Dialect(), take, None, server)
            try:
                answers.append(complete(prediction))
            except (RuntimeError, InputError) as error:
                answers.append(error)
        instance.slot.vacate()
        instance.slot.let_go()
        assert len(instance.slot.take_drained()) == 2  # no lease is left
        return answers, board.read(2, 1, 0.0).counts

    return ask


def test_a_spoiled_answer_is_made_again(ask):
    (answer,), counts = ask("nan", 3)
    assert (answer.status, json.loads(answer.body)) == (200, [3.0, 6.0])
    assert (answer.headers["X-Model-Generation"], answer.headers[RETRIED]) == ("1", "generation=2; finite")
    assert counts["finite"] == (1, 1)


def test_what_both_spoil_speaks_against_neither(ask):
    (answer,), counts = ask("nan", "nan")
    assert b"NaN" in answer.body
    assert (RETRIED in answer.headers, counts["finite"]) == (False, (0, 1))
    (error,), counts = ask("raise", "raise")
    assert (repr(error), counts["errors"]) == ("RuntimeError('bad')", (0, 2))


def test_the_clients_fault_is_no_signal(ask):
    (error,), counts = ask("refuse", 3)
    assert isinstance(error, InputError)
    assert counts["errors"] == (0, 1)


@pytest.mark.parametrize(("retry", "is_made_again"), [("off", False), ("finite", False), ("all", True)])
def test_which_answers_are_made_again(ask, retry, is_made_again):
    (answer,), counts = ask("raise", 3, retry)
    assert isinstance(answer, Response) is is_made_again
    assert counts["errors"] == (1, 1)


def test_a_late_request_is_not_made_again(ask, monkeypatch):
    monkeypatch.setattr("serve.inference.inspection.time.monotonic", lambda: float("inf"))
    (answer,), counts = ask("nan", 3)
    assert b"NaN" in answer.body
    assert counts["finite"] == (1, 1)


def test_pairs_are_run_first_then_now_and_then_and_more_where_one_was_slower(tmp_path):
    guard = Guard(slower=3.0)
    guard.open(EvidenceBoard(tmp_path), 0, lambda: (2, 0))
    guard.note_run(2, 1, 1, 0.001)
    for _ in range(3):
        assert guard.wants_pair(2)
        guard.note_pair(False, 1.0)
    assert not guard.wants_pair(2)
    guard.note_pair(True, 1.0)
    for _ in range(4):
        assert guard.wants_pair(2)
        guard.note_pair(False, 1.0)
    assert not guard.wants_pair(2)
    guard.note_run(3, 1, 1, 1.0)  # a request would wait for too long
    assert not guard.wants_pair(3)
    guard.pairs_wanted = SUSPECTED_PAIRS
    assert guard.wants_pair(3)
