from __future__ import annotations

import time
from dataclasses import replace

import pytest

from serve.store.quarantine import Quarantine, Rejection, add_rejection

BYTES = Rejection("m.pth", "finite", "NaN", "seen-1", sha256="a" * 64, version="v1")
SIGHT = Rejection("m.pth", "marker", "no JSON", "seen-1", marker="done!")


def test_it_is_shared_and_kept(tmp_path):
    assert Quarantine(tmp_path, lambda: "judge").add(BYTES)
    other = Quarantine(tmp_path, lambda: "judge")
    assert other.find_sha256(BYTES.sha256, "").reason == "NaN"
    assert other.find("seen-1").code == "finite"
    assert other.find("seen-2") is other.find_sha256("b" * 64, "") is None
    assert not other.add(BYTES), "said once on a host"


def test_another_judge_judges_anew(tmp_path):
    Quarantine(tmp_path, lambda: "judge").add(BYTES)
    other = Quarantine(tmp_path, lambda: "another class")
    assert other.find_sha256(BYTES.sha256, "") is None
    assert other.add(BYTES)


def test_a_half_written_checkpoint_is_news_once():
    records, is_news = add_rejection({}, SIGHT, "j", 0.0)
    assert is_news
    records, is_news = add_rejection(records, replace(SIGHT, fingerprint="grown", reason="other"), "j", 1.0)
    assert not is_news
    assert add_rejection(records, replace(SIGHT, code="size"), "j", 2.0)[1]
    assert add_rejection(records, replace(SIGHT, marker="{}"), "j", 2.0)[1]


def test_what_may_pass_is_tried_again_less_and_less_often():
    records, pauses = {}, []
    for _ in range(12):
        records, _ = add_rejection(records, replace(BYTES, is_lasting=False), "j", 1000.0)
        pauses.append(records[BYTES.sha256].retry_at_s - 1000.0)
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == 60.0


@pytest.mark.parametrize(("now_s", "holds"), [(1000.0, True), (1000.9, True), (1001.0, False), (500.0, False)])
def test_a_pause_ends_and_a_clock_set_back_does_not_prolong_it(now_s, holds):
    records, _ = add_rejection({}, replace(BYTES, is_lasting=False), "j", 1000.0)
    assert records[BYTES.sha256].holds("j", now_s) is holds


def test_the_same_bytes_under_another_name_are_recognized(tmp_path):
    quarantine = Quarantine(tmp_path)
    quarantine.add(BYTES)
    quarantine.recognize(quarantine.find_sha256(BYTES.sha256, ""), "other name")
    assert Quarantine(tmp_path).find("other name").subject == BYTES.sha256


def test_what_was_committed_after_all_is_forgotten(tmp_path):
    quarantine = Quarantine(tmp_path)
    quarantine.add(BYTES)
    Quarantine(tmp_path).forget(BYTES.sha256)
    assert quarantine.records() == []


def test_a_damaged_file_stops_nothing(tmp_path):
    (tmp_path / "quarantine.json").write_text("not JSON")
    quarantine = Quarantine(tmp_path)
    assert quarantine.records() == []
    quarantine.add(BYTES)
    assert Quarantine(tmp_path).find("seen-1")


def test_a_disk_that_takes_nothing_leaves_it_in_memory(tmp_path):
    quarantine = Quarantine(tmp_path / "file")
    (tmp_path / "file").write_text("where the directory should be")
    assert quarantine.add(BYTES)
    assert quarantine.find("seen-1")
    assert not quarantine.add(BYTES)


def test_a_disk_that_is_full_leaves_it_in_memory_and_tells_it_once(tmp_path):
    (tmp_path / "quarantine.json").mkdir()  # cannot be replaced by a file, as on a full disk
    quarantine = Quarantine(tmp_path)
    assert quarantine.add(BYTES)
    assert quarantine.find("seen-1")
    assert not quarantine.add(BYTES)


def test_it_stays_small(tmp_path):
    records = {}
    for number in range(600):
        records, _ = add_rejection(records, replace(BYTES, sha256=f"{number:064}"), "j", time.time())
    assert len(records) == 500
    assert f"{599:064}" in records


def test_another_marker_may_mend_what_lay_in_the_marker(tmp_path):
    quarantine = Quarantine(tmp_path)
    quarantine.add(replace(BYTES, code="signature", marker="unsigned"))
    assert quarantine.find_sha256(BYTES.sha256, "unsigned")
    assert quarantine.find_sha256(BYTES.sha256, "signed") is None
    quarantine.add(replace(BYTES, marker="unsigned"))
    assert quarantine.find_sha256(BYTES.sha256, "signed"), "NaN is NaN under any marker"


def test_the_pause_grows_with_what_trying_again_costs():
    for facts, first, last in (
        ({}, 1.0, 60.0),
        ({"is_costly": True}, 1.0, 600.0),
        ({"is_costly": True, "is_disruptive": True}, 600.0, 86400.0),
    ):
        records, pauses = {}, []
        for _ in range(15):
            records, _ = add_rejection(records, replace(BYTES, is_lasting=False, **facts), "j", 1000.0)
            pauses.append(records[BYTES.sha256].retry_at_s - 1000.0)
        assert (pauses[0], pauses[-1]) == (first, last)
