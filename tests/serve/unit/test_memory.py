from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from serve.source.observation import Identity, Observation
from serve.store.ledger import Entry
from serve.swap.seen_checkpoints import SeenCheckpoints

SEEN = Observation(Path("m"), Identity(1, 2, 3, 4), Identity(5, 6, 7, 8), b"")
GROWN = replace(SEEN, checkpoint=Identity(1, 2, 9, 4))


def recall(memory, seen, is_ranked=True, now_s=0.0):
    return memory.recall(seen, is_ranked, now_s, None)


def test_first_seen_lasts_while_nothing_changes():
    memory = SeenCheckpoints()
    assert recall(memory, SEEN, now_s=1.0).first_seen_s == 1.0
    assert recall(memory, SEEN, now_s=2.0).first_seen_s == 1.0
    assert recall(memory, GROWN, now_s=3.0).first_seen_s == 3.0
    assert recall(memory, SEEN, now_s=4.0).first_seen_s == 4.0


def test_a_refusal_is_passed_on():
    assert SeenCheckpoints().recall(SEEN, True, 1.0, "too short").refusal == "too short"


def test_rank_counts_only_where_there_are_several():
    memory = SeenCheckpoints()
    memory.serve(SEEN.fingerprint, (0, 5, "m"))
    assert recall(memory, SEEN).served_order == (0, 5, "m")
    assert recall(memory, SEEN, is_ranked=False).served_order is None
    assert recall(memory, SEEN, is_ranked=False).served == SEEN.fingerprint


def test_what_was_live_once_does_not_come_back_by_itself():
    memory = SeenCheckpoints()
    old = Entry(1, "a" * 64, 1, "v1", "m", 1000, SEEN.fingerprint)
    newer = replace(old, generation=2, fingerprint=GROWN.fingerprint, marker_mtime_ns=2000)
    back = replace(old, generation=3, fingerprint="rollback:1")
    memory.learn([old, newer, back])
    assert recall(memory, SEEN).served == SEEN.fingerprint
    assert recall(memory, GROWN).served == GROWN.fingerprint
    assert recall(memory, GROWN).served_order == (0, 2000, "m")


def test_what_a_rollback_replaced_stays_away_until_something_changes():
    memory = SeenCheckpoints()
    old = Entry(1, "a" * 64, 1, "v1", "m", 1000, SEEN.fingerprint)
    newer = replace(old, generation=2, sha256="b" * 64, fingerprint=GROWN.fingerprint)
    memory.learn([old, newer, replace(old, generation=3, fingerprint="rollback:1", cause="rollback")])
    assert recall(memory, GROWN, is_ranked=False).is_withdrawn
    assert not recall(memory, SEEN, is_ranked=False).is_withdrawn
    assert not recall(memory, GROWN, is_ranked=False).is_withdrawn, "it came back after something else"
