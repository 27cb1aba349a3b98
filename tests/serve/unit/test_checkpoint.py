from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serve.source.observation import Identity, Ignore, Known, Load, Observation, Refuse, Wait, decide

SHA256 = "ab" * 32
CHECKPOINT = Identity(device=1, inode=2, size_bytes=100, mtime_ns=1000)
EMPTY = Observation(Path("ck/m.pth"), CHECKPOINT, Identity(1, 3, 0, 2000), b"")
STATED = replace(EMPTY, text=json.dumps({"sha256": SHA256, "size": 100}).encode())
RANKED = replace(STATED, generation=7)
NOTHING = Known(served=None, served_order=None, first_seen_s=0.0)
LONG_AFTER_S = 10.0
REWRITTEN = replace(CHECKPOINT, mtime_ns=3000)


def decided(seen, known=NOTHING, now_s=LONG_AFTER_S):
    return decide(seen, known, now_s, settle_s=0.5)


@pytest.mark.parametrize(
    ("what", "seen", "known", "action"),
    [
        ("an empty marker that held still", EMPTY, NOTHING, Load),
        ("a marker that states its content", STATED, NOTHING, Load),
        ("what is served", STATED, replace(NOTHING, served=STATED.fingerprint), Ignore),
        ("older than what is served", STATED, replace(NOTHING, served_order=(0, 2001, "a")), Ignore),
        ("of the same rank, and changed", STATED, replace(NOTHING, served_order=(0, 2000, "m.pth")), Load),
        ("as old, but with a later name", STATED, replace(NOTHING, served_order=(0, 2000, "a")), Load),
        ("of a lower stated generation", STATED, replace(NOTHING, served_order=(1, 5, "a")), Ignore),
        ("of a higher one, by an older clock", RANKED, replace(NOTHING, served_order=(6, 9999, "z")), Load),
        ("newer than what is served", STATED, replace(NOTHING, served_order=(0, 1999, "z")), Load),
        ("refused for good", STATED, replace(NOTHING, refusal="bad"), Ignore),
        ("replaced by a rollback", STATED, replace(NOTHING, is_withdrawn=True), Ignore),
        ("no checkpoint", replace(STATED, checkpoint=None), NOTHING, Ignore),
        ("a marker that cannot be read", replace(STATED, problem="EACCES"), NOTHING, Refuse),
        ("a marker that is no JSON", replace(STATED, text=b"done"), NOTHING, Refuse),
        ("another size", replace(STATED, checkpoint=replace(CHECKPOINT, size_bytes=99)), NOTHING, Refuse),
        ("an empty marker under new bytes", replace(EMPTY, checkpoint=REWRITTEN), NOTHING, Ignore),
        ("a stated hash under new bytes that hold still", replace(STATED, checkpoint=REWRITTEN), NOTHING, Load),
    ],
)
def test_decisions(what, seen, known, action):
    assert type(decided(seen, known)) is action, what


def test_without_proof_a_checkpoint_must_hold_still():
    known = replace(NOTHING, first_seen_s=9.8)
    assert decided(EMPTY, known) == Wait("the checkpoint must hold still", pytest.approx(0.3))
    assert isinstance(decided(replace(STATED, checkpoint=REWRITTEN), known), Wait)
    assert isinstance(decided(STATED, known), Load), "a hash proves its bytes at once"


def test_the_fingerprint_changes_with_everything_that_was_seen():
    others = [
        replace(EMPTY, path=Path("ck/n.pth")),
        replace(EMPTY, text=b" "),
        replace(EMPTY, checkpoint=None),
        *(replace(EMPTY, checkpoint=replace(CHECKPOINT, **{key: 7})) for key in vars(CHECKPOINT)),
        *(replace(EMPTY, marker=replace(EMPTY.marker, **{key: 7})) for key in vars(CHECKPOINT)),
    ]
    assert len({seen.fingerprint for seen in [EMPTY, *others]}) == len(others) + 1
