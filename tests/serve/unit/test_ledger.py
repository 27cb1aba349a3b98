from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from serve.errors import LedgerError
from serve.store.checkpoint_store import Store
from serve.store.ledger import Entry, Ledger

FIRST = Entry(0, "a" * 64, 10, "v1", "m.pth", 1000, "seen-1")
SECOND = replace(FIRST, sha256="b" * 64, version="v2", fingerprint="seen-2")


@pytest.fixture
def ledger(tmp_path):
    return Ledger(Store(tmp_path / "store"))


def test_generations_rise(ledger):
    assert ledger.last() is None
    assert [ledger.commit(FIRST).generation, ledger.commit(SECOND).generation] == [1, 2]
    assert [entry.sha256 for entry in ledger.read()] == [FIRST.sha256, SECOND.sha256]
    assert ledger.last().committed


def test_the_same_observation_has_the_same_number_in_every_worker(ledger):
    assert ledger.commit(FIRST).generation == ledger.commit(FIRST).generation == 1
    ledger.commit(SECOND)
    assert ledger.commit(FIRST).generation == 1, "a slow worker"
    assert len(ledger.read()) == 2


def test_the_same_content_seen_anew_is_no_new_generation(ledger):
    ledger.commit(FIRST)
    assert ledger.commit(replace(FIRST, fingerprint="touched")).generation == 1


def test_an_older_content_comes_back_as_a_new_generation(ledger):
    ledger.commit(FIRST)
    ledger.commit(SECOND)
    assert ledger.commit(replace(FIRST, fingerprint="published again")).generation == 3


def test_a_torn_line_was_never_committed(ledger, tmp_path):
    ledger.commit(FIRST)
    path = tmp_path / "store" / "generations.jsonl"
    with path.open("ab") as writer:
        writer.write(b'{"generation": 2, "sha')
    assert ledger.last().generation == 1
    assert ledger.commit(SECOND).generation == 2
    assert [entry.generation for entry in ledger.read()] == [1, 2]


@pytest.mark.parametrize("is_same_file", [True, False])
def test_a_file_that_was_not_only_appended_to_is_read_anew(ledger, tmp_path, is_same_file):
    other = Ledger(Store(tmp_path / "other"))
    for entry in (SECOND, replace(FIRST, version="v3"), FIRST):
        ledger.commit(replace(entry, fingerprint=entry.version))
        other.commit(replace(entry, name="x.pth", fingerprint=entry.version))
    ledger.read()
    path, content = tmp_path / "store" / "generations.jsonl", other._path.read_bytes()
    if not is_same_file:
        path.unlink()
    path.write_bytes(content)
    assert [entry.name for entry in ledger.read()] == ["x.pth"] * 3
    assert ledger.commit(replace(FIRST, version="v4", fingerprint="4")).generation == 4
    assert [entry.generation for entry in ledger.read()] == [1, 2, 3, 4]


def test_a_whole_line_that_is_no_entry_is_an_error(ledger, tmp_path):
    ledger.commit(FIRST)
    with (tmp_path / "store" / "generations.jsonl").open("ab") as writer:
        writer.write(b"something else\n")
    with pytest.raises(LedgerError, match="something else"):
        ledger.read()


def test_processes_never_share_a_number(tmp_path):
    code = """if True:
        import sys
        from pathlib import Path
        from serve.store.ledger import Entry, Ledger
        from serve.store.checkpoint_store import Store
        ledger = Ledger(Store(Path(sys.argv[1])))
        for number in range(40):
            name = f"{sys.argv[2]}-{number}"
            ledger.commit(Entry(0, name, 1, name, name, 1, name))
    """
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    writers = [subprocess.Popen([*command, str(number)]) for number in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    generations = [entry.generation for entry in Ledger(Store(tmp_path / "store")).read()]
    assert generations == list(range(1, 121))
