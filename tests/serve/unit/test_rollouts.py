"""A canary and a shadow are promoted or ended by rule, the same in all workers."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time

import pytest
from predictors import Times, go_live, make_server

from serve.checkpoint.provenance import Provenance
from serve.inference.prediction import ModelSpec
from serve.inference.rollout import Asked, Counts, Rollout, find_disagreement
from serve.model.answers import Declared
from serve.model.slot import Generation
from serve.rollout.decision import Evidence, Step, Verdict, rollout_of
from serve.rollout.evidence_board import EvidenceBoard, Watch
from serve.store.ledger import Entry
from serve.swap.context import Context

ENTRY = Entry(0, "c" * 64, 10, "v7", "m.pth", 1000, "seen")
PROMOTE = "promote = {requests = 100, errors = 0, p99_ratio = 1.5}"


@pytest.fixture
def open_worker(tmp_path):
    """A worker whose stable and other label are live as generation 1, and what judges the other."""

    def open_one(label, line=PROMOTE, share=0.1):
        lines = f'[models.a]\nmodel = "m:M"\ncheckpoints = "ck"\n[models.a.{label}]\ncheckpoints = "{label}"\n'
        server = make_server(tmp_path, f"{lines}share = {share}\n{line}\n")
        model = server.find("a")
        instance = model.labels[label]
        for row, one in enumerate((model.stable, instance)):
            go_live(one, Times(2))
            shared_state = one.shared_state
            shared_state.committed = 1
            shared_state.trial_since_ms = int(time.monotonic() * 1000)
            one.guard.open(
                EvidenceBoard(one.settings.store), row, lambda shared_state=shared_state: (shared_state.committed, 0)
            )
            if not one.ledger.read():
                one.ledger.commit(ENTRY)
        watch = Watch(Rollout(instance, model.stable), rollout_of(instance.settings), instance.guard, instance.log)
        return server, model, watch

    return open_one


def order_of(model):
    return model.stable.operator_requests.rollback()


def test_a_key_has_one_side_in_all_workers(open_worker):
    _, one, _ = open_worker("canary")
    _, other, _ = open_worker("canary")
    one._draw = other._draw = random.Random(1).random
    keys = [f"user-{number}" for number in range(2000)]
    sides = [one.choose(ModelSpec(key=key)) is one.labels["canary"] for key in keys]
    assert 120 < sum(sides) < 280
    assert [other.choose(ModelSpec(key=key)) is other.labels["canary"] for key in keys] == sides
    assert len({one.choose(ModelSpec(key="user-1")) for _ in range(1000)}) == 1


def test_a_canary_is_promoted_once(open_worker, capfd):
    _, model, rollout = open_worker("canary")
    _, other_model, other = open_worker("canary")
    guard = model.labels["canary"].guard
    guard.note_run(1, 99, 1, 0.01)
    assert rollout.look().step is Step.WAIT
    guard.note_run(1, 1, 1, 0.01)
    assert rollout.look().step is Step.WAIT  # what is not known of the stable one speaks for no canary
    model.stable.guard.note_run(1, 1, 1, 0.01)
    assert rollout.look().step is Step.KEEP
    order = order_of(model)
    assert (order.sha256, order.cause, order.id) == (ENTRY.sha256, "promotion", f"canary-1-{ENTRY.sha256}")
    assert order.path == str(model.labels["canary"].settings.store / "sha256" / ENTRY.sha256)
    proposed = order.propose(Entry(**order.entry))
    assert (proposed.cause, proposed.generation, proposed.version) == ("promotion", 0, "v7")
    assert other.look() is None  # it is done
    other._trial.carry_out(1, Verdict(Step.KEEP, "late"), Evidence(0.0))  # by one that had decided just before
    assert capfd.readouterr().err.count('"promoted"') == 1
    spec = ModelSpec(key=None)
    other_model._draw = lambda: 0.0
    assert other_model.choose(spec) is other_model.stable


@pytest.mark.parametrize("is_good", [True, False])
@pytest.mark.parametrize("place", ["order_promotion", "next_turn", "reject", "emit", "none"])
def test_a_worker_killed_at_the_end_of_a_rollout_leaves_one_state(open_worker, is_good, place):
    """Killed after each step of the end, by the kernel; the next one to look finishes it, once."""
    _, model, rollout = open_worker("canary")
    canary, stable = model.labels["canary"], model.stable
    canary.guard.note_run(1, 100, 1, 0.01)
    stable.guard.note_run(1, 100, 1, 0.01)
    for _ in range(0 if is_good else 20):
        canary.guard.note(1, "finite")

    def die_after(owner, name):
        step = getattr(owner, name)

        def run(*given, **named):
            step(*given, **named)
            os.kill(os.getpid(), signal.SIGKILL)

        object.__setattr__(owner, name, run)

    def decide():
        owners = {"order_promotion": stable.operator_requests, "next_turn": stable.shared_state, "reject": canary}
        if place != "none":
            die_after(owners.get(place, canary.log), place)
        rollout.look()

    child = multiprocessing.get_context("fork").Process(target=decide)
    child.start()
    child.join()
    dies = place in (("order_promotion", "next_turn", "emit") if is_good else ("reject", "emit"))
    assert child.exitcode == (-signal.SIGKILL if dies else 0)
    _, other_model, other = open_worker("canary")
    other.look()
    assert other.look() is None
    assert other_model.labels["canary"].shared_state.ended == 1
    assert (order_of(other_model) is not None) == is_good
    records = other_model.labels["canary"]._context.quarantine.records()
    assert [record.code for record in records] == ([] if is_good else ["canary"])
    assert other_model.stable.shared_state.turn >= is_good


def test_abort_is_stronger_than_promote(open_worker):
    _, model, rollout = open_worker("canary")
    canary = model.labels["canary"]
    canary.guard.note_run(1, 1000, 1, 0.01)
    for _ in range(20):
        canary.guard.note(1, "finite")
    verdict = rollout.look()
    assert (verdict.step, verdict.signal) == (Step.BACK, "finite")
    assert order_of(model) is None
    model._draw = lambda: 0.0
    assert model.choose(ModelSpec()) is model.stable
    (record,) = canary._context.quarantine.records()
    assert (record.code, record.subject) == ("canary", ENTRY.sha256)


def test_what_is_wanted_and_not_so_ends_at_the_timeout(open_worker):
    _, model, rollout = open_worker("canary", f"{PROMOTE}\ntimeout_s = 10")
    guard = model.labels["canary"].guard
    model.stable.guard.note_run(1, 100, 1, 0.01)
    guard.note_run(1, 1000, 1, 0.1)
    assert rollout.look().step is Step.WAIT
    model.labels["canary"].shared_state.trial_since_ms -= 20_000
    verdict = rollout.look()
    assert (verdict.step, verdict.signal) == (Step.BACK, "")
    assert "p99_ratio" in verdict.reason
    assert order_of(model) is None
    assert model.labels["canary"]._context.quarantine.records() == []


@pytest.mark.parametrize(
    ("then", "is_same", "is_promoted", "is_refused"),
    [
        ("promote", True, True, False),
        ("promote", False, False, True),
        ("refuse", True, False, False),
        ("refuse", False, False, True),
        ("hold", True, False, False),
        ("hold", False, False, False),
    ],
)
def test_a_shadow_has_a_verdict(open_worker, then, is_same, is_promoted, is_refused):
    line = f'promote = {{requests = 100, agreement = 0.99}}\nthen = "{then}"'
    server, model, rollout = open_worker("shadow", line, share=1.0)
    shadow = model.labels["shadow"]
    go_live(shadow, Times(2 if is_same else 3))
    for _ in range(100):
        asked = Asked(shadow, lambda predictor: predictor.prepare([1, 2]), [2.0, 4.0], model.stable)
        server.shadow._compare(asked, Counts())
    verdict = rollout.look()
    assert verdict.step is (Step.KEEP if is_same else Step.BACK)
    assert (order_of(model) is not None) is is_promoted
    assert bool(shadow._context.quarantine.records()) is is_refused
    assert rollout.look() is None


def test_a_canary_is_compared_with_the_stable_one(open_worker):
    server, model, rollout = open_worker("canary", "promote = {requests = 100, agreement = 0.9}")
    canary = model.labels["canary"]
    canary.guard.note_run(1, 200, 1, 0.01)
    assert model.compare_with(canary) in (None, model.stable)
    assert rollout.look().step is Step.WAIT  # nothing was compared
    for outputs in [[2.0, 4.0]] * 95 + [[0.0, 0.0]] * 5:
        asked = Asked(model.stable, lambda predictor: predictor.prepare([1, 2]), outputs, canary, 1)
        server.shadow._compare(asked, Counts())
    assert server.shadow.counts == {}
    assert rollout.look().step is Step.KEEP


@pytest.mark.parametrize(
    ("how", "one", "other", "agrees"),
    [
        ("tolerance", [1.0], [1.0000001], True),
        ("exact", [1.0], [1.0000001], False),
        ("exact", [1.0], [1.0], True),
        ("top1", [[0.1, 0.9]], [[0.4, 0.6]], True),
        ("top1", [[0.1, 0.9]], [[0.6, 0.4]], False),
        ("tolerance", [1.0], [2.0], False),
    ],
)
def test_how_answers_are_compared(how, one, other, agrees):
    assert (find_disagreement(Times(), how, one, other) == []) is agrees


def test_the_model_class_compares():
    class Own(Times):
        declared = Declared(agree=lambda a, b: len(a) == len(b))

    assert find_disagreement(Own(), "exact", [1], [2]) == []
    assert find_disagreement(Own(), "exact", [1], [2, 3]) != []


def test_bytes_of_another_label_are_linked(tmp_path, open_worker):
    _, model, _ = open_worker("canary")
    context: Context = model.stable._context
    source = tmp_path / "other" / ("d" * 64)
    source.parent.mkdir()
    source.write_bytes(b"x")
    context.store.adopt(source)
    context.store.adopt(source)
    adopted = context.store.root / "sha256" / source.name
    assert adopted.stat().st_ino == source.stat().st_ino
    assert context.store.find(source.name) is None  # it is not what its name states
    assert not adopted.exists()


def test_an_answer_of_a_canary_is_made_again_by_the_stable_one(open_worker):
    from serve.inference.inspection import Remade, inspect
    from serve.inference.prediction import Prediction

    class Spoiling(Times):
        def run(self, taken):
            return taken * float("nan")

        def find_fault(self, taken, given):
            return ("finite", "") if (given != given).any() else None

    server, model, _ = open_worker("canary")
    canary = model.labels["canary"]
    provenance = Provenance("a", "v7", 1, "c" * 64, "d", "canary")
    canary.slot.swap(Generation(Spoiling(), provenance, {}))
    leased = canary.slot.acquire()
    take = lambda predictor: predictor.prepare([1, 2])  # noqa: E731
    prediction = Prediction(canary, leased, take(leased.predictor), None, take, None, server)
    (remade,) = inspect([prediction], [prediction.run()], 2, 0.01, [float("inf")])
    assert isinstance(remade, Remade)
    assert remade.instance is model.stable
    assert list(remade.raw) == [2.0, 4.0]
    model.stable.slot.release(remade.generation)
    assert canary.guard.board.read(1, 0, 0.0).counts["finite"] == (1, 1)
