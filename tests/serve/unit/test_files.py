"""Durable writes."""

from __future__ import annotations

import os

import pytest

from serve import durable_files
from serve.swap.seen_checkpoints import Unserved


@pytest.mark.parametrize("is_lasting", [True, False])
def test_what_a_killed_process_of_this_number_left_is_no_obstacle(tmp_path, is_lasting):
    (tmp_path / f".x.{os.getpid()}.tmp").write_bytes(b"half")
    (tmp_path / "x").write_bytes(b"old")
    durable_files.replace_file(tmp_path / "x", b"new", is_lasting=is_lasting)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"new"}


def test_what_cannot_be_replaced_stays_and_nothing_is_left(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="directory"):
        durable_files.replace_file(tmp_path / "x", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_records_that_lack_a_key_are_passed_over_and_no_look_ends_in_a_fault(tmp_path):
    (tmp_path / "unserved.json").write_text('[{"name": "a.safetensors"}]')
    assert Unserved(tmp_path).notes() == []
