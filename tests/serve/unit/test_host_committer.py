"""The committer of a host, asked directly."""

from __future__ import annotations

import os
from dataclasses import replace

import bare
from predictors import make_server
from trainer import mark

from serve.policy import VARIABLE, Policy
from serve.source.observation import SERVED, Wait
from serve.swap.shared_state import ROWS, Membership, Row, SharedState


def test_a_worker_without_a_model_does_not_take_what_its_host_committed_for_served(tmp_path):
    place = tmp_path / "ck"
    place.mkdir()
    (place / "x").write_bytes(b"x")
    mark(place / "x")
    first = bare.Worker(tmp_path / "store", place)
    first.look()
    committed = first.ledger.last()
    late = bare.Worker(tmp_path / "store", place, boot=False)
    assert isinstance(late.committer.move(late.loader, None, committed), Wait)
    assert first.committer.move(first.loader, None, committed) is SERVED
    assert (first.live, late.live) == (b"x", None)


def test_two_workers_that_lack_a_model_each_do_not_wait_for_each_other(tmp_path):
    shadow = '[models.a.shadow]\ncheckpoints = "dark"\n'
    toml = f'model = "m:M"\n[models.a]\ncheckpoints = "a"\n[models.b]\ncheckpoints = "b"\n{shadow}'
    server = make_server(tmp_path, toml)
    first, second = (
        Membership(server.models[name].stable.settings.store / "workers", server.models[name].stable.shared_state)
        for name in ("a", "b")
    )
    first.join(1)
    second.join(1)
    first.update(pid=1, parent=os.getppid())
    second.update(pid=2, parent=os.getppid())
    looks = iter((True, True, False))
    server.wait_while_spared(lambda: next(looks))
    assert next(looks), "it takes requests: no other worker has both models"
    second.update(pid=1)
    looks = iter((True, True, False))
    server.wait_while_spared(lambda: next(looks))
    assert next(looks, None) is None, "the shadow is not missed, and worker 1 answers for both models"
    first.leave()
    second.leave()


def test_what_another_host_has_admitted_is_refused_by_the_policy_of_this_one(tmp_path):
    place, policy = tmp_path / "ck", tmp_path / "policy.toml"
    place.mkdir()
    (place / "x").write_bytes(b"x")
    mark(place / "x")
    there = bare.Worker(tmp_path / "there", place)
    there.look()
    policy.write_text('[serve]\nrefuse = true\nreport = "report.json"\n')
    found = '{"env_digest": null, "checked": "2026-01-01T00:00:00+00:00", "breaches": [{"rule": "r", "message": "m"}]}'
    (tmp_path / "report.json").write_text(found)
    here = bare.Worker(tmp_path / "here", place)
    here.committer._context = replace(here.committer._context, policy=Policy({VARIABLE: str(policy)}, None))
    entry = there.ledger.last()
    stored = there.store.find(entry.sha256)
    assert "serve.refuse: r: m" in here.committer.move(here.loader, stored, entry).reason
    assert here.committer.move(here.loader, stored, replace(entry, cause="rollback")) is SERVED
    there.leave()
    here.leave()


def test_who_joins_takes_no_row_of_the_dead_while_there_is_another(tmp_path):
    state = SharedState(tmp_path / "word").open()
    membership = Membership(tmp_path / "workers", state)
    state.write_row(0, Row(pid=4, live=2, parent=os.getppid()))
    membership.join(2)
    assert membership.index == 1
    assert membership.survey().dead == {0: Row(pid=4, live=2, parent=os.getppid())}
    for index in range(2, ROWS):
        state.write_row(index, Row(pid=4))
    last = Membership(tmp_path / "workers", state)
    last.join(2)
    assert last.index == 0
    membership.leave()
    last.leave()
