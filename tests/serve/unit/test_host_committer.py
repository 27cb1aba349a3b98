"""The committer of a host, asked directly."""

from __future__ import annotations

import bare
from trainer import mark

from serve.source.observation import SERVED, Wait


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
