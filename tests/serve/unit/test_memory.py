from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from serve.checkpoint import Identity, Observation, Refuse
from serve.memory import Memory

SEEN = Observation(Path("m"), Identity(1, 2, 3, 4), Identity(5, 6, 7, 8), b"")
GROWN = replace(SEEN, checkpoint=Identity(1, 2, 9, 4))


def test_first_seen_lasts_while_nothing_changes():
    memory = Memory()
    assert memory.recall(SEEN, True, 1.0).first_seen_s == 1.0
    assert memory.recall(SEEN, True, 2.0).first_seen_s == 1.0
    assert memory.recall(GROWN, True, 3.0).first_seen_s == 3.0
    assert memory.recall(SEEN, True, 4.0).first_seen_s == 4.0


def test_a_lasting_refusal_holds_until_something_changes():
    memory = Memory()
    memory.recall(SEEN, True, 1.0)
    assert memory.refuse(Refuse(SEEN, "size", "too short"), True, 1.0)
    known = memory.recall(SEEN, True, 2.0)
    assert (known.refusal, known.retry_at_s) == ("too short", None)
    assert memory.recall(GROWN, True, 3.0).refusal is None


def test_a_half_written_checkpoint_is_news_once():
    memory = Memory()
    memory.recall(SEEN, True, 1.0)
    assert memory.refuse(Refuse(SEEN, "size", "3 bytes"), True, 1.0)
    memory.recall(GROWN, True, 2.0)
    assert not memory.refuse(Refuse(GROWN, "size", "9 bytes"), True, 2.0)
    assert memory.refuse(Refuse(GROWN, "hash", "another"), True, 2.0)


def test_a_passing_fault_is_tried_again_less_and_less_often():
    memory = Memory()
    memory.recall(SEEN, True, 0.0)
    delays = []
    for _ in range(12):
        memory.refuse(Refuse(SEEN, "OSError", "disk full"), False, 100.0)
        delays.append(memory.recall(SEEN, True, 100.0).retry_at_s - 100.0)
    assert delays[:4] == [1.0, 2.0, 4.0, 8.0]
    assert delays[-1] == 60.0


def test_rank_counts_only_where_there_are_several():
    memory = Memory()
    memory.serve("served", (5, "m"))
    assert memory.recall(SEEN, True, 0.0).served_order == (5, "m")
    assert memory.recall(SEEN, False, 0.0).served_order is None
    assert memory.recall(SEEN, False, 0.0).served == "served"
