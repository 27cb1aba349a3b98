"""What a directory is taken for, while another process works in it too."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from envtool.errors import PrefixError
from envtool.prefix.prefix import Prefix, Receipt, State

NOTHING = Receipt("linux-64", (), (), "sha256:0", {})


def test_a_prefix_that_is_being_made_is_never_taken_for_foreign(tmp_path: Path) -> None:
    for number in range(50):
        prefix, is_done, seen = Prefix(tmp_path / str(number)), threading.Event(), set()

        def look(prefix=prefix, is_done=is_done, seen=seen) -> None:
            while not is_done.is_set():
                seen.add(prefix.state())

        looking = threading.Thread(target=look)
        looking.start()
        with prefix.locked():
            prefix.mark_incomplete()
            (prefix.path / "file").write_text("x")
            prefix.complete(NOTHING)
        is_done.set()
        looking.join()
        assert State.FOREIGN not in seen
        assert prefix.state() is State.WHOLE


def test_a_mark_that_was_never_finished_leaves_an_empty_prefix(tmp_path: Path) -> None:
    prefix = Prefix(tmp_path)
    prefix.meta.mkdir()
    (prefix.meta / "..incomplete.123.tmp").write_text("half")
    assert prefix.state() is State.EMPTY


@pytest.mark.parametrize(
    "part",
    [
        None,
        "",
        '{"packages": {}, "generated": {}}',
        '{"packages": [], "generated": [["a", "b"]]}',
        '{"packages": [{"nam": "x"}], "generated": {}}',
        "[" * 100_000,
    ],
    ids=range(6),
)
def test_a_damaged_part_of_a_receipt_is_named(tmp_path: Path, part: str | None) -> None:
    prefix = Prefix(tmp_path)
    path = prefix.meta / "envserve.d/x.json"
    head = {"packages": [], "generated": {}, "platform": "linux-64", "categories": [], "parts": ["x.json"]}
    path.mkdir(parents=True)
    (prefix.meta / "envserve").write_text(json.dumps(head))
    if part is not None:
        path.rmdir()
        path.write_text(part)
    with pytest.raises(PrefixError, match=f"the receipt {path} is damaged"):
        prefix.receipt()
    prefix.complete(NOTHING)
    assert prefix.receipt() == NOTHING
    assert not path.exists()


def test_what_is_wrong_beside_the_parts_names_the_receipt_itself(tmp_path: Path) -> None:
    prefix = Prefix(tmp_path)
    (prefix.meta / "envserve.d").mkdir(parents=True)
    receipt = prefix.meta / "envserve"
    receipt.write_text('{"packages": [], "generated": {}, "categories": [], "parts": ["x.json"]}')
    (prefix.meta / "envserve.d/x.json").write_text('{"packages": [], "generated": {}}')
    with pytest.raises(PrefixError, match=f"the receipt {receipt} is damaged: 'platform'"):
        prefix.receipt()
    receipt.unlink()
    receipt.symlink_to("envserve")  # as root may read everything, a link to itself
    with pytest.raises(PrefixError, match=f"the receipt {receipt} cannot be read: Too many levels"):
        prefix.receipt()


@pytest.mark.parametrize("name", ["file", "conda-meta/history", "conda-meta/python-3.9-0.json"])
def test_what_others_made_is_foreign(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("theirs")
    assert Prefix(tmp_path).state() is State.FOREIGN
