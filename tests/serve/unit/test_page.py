"""The files of the status page, the texts in both languages, and what it is told."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from serve.gateway import monitoring
from serve.gateway.monitoring import ASSETS, send_asset
from serve.metrics.worker_metrics import Traffic
from serve.observability.telemetry import describe_status, describe_traffic, list_swaps
from serve.operations.operations import Status
from serve.operations.timeline import Past
from serve.store.ledger import Entry
from serve.store.quarantine import Record
from serve.swap.shared_state import Row


def text_of(name):
    return send_asset(name).body.decode()


def test_every_file_is_sent_with_a_strict_policy():
    directory = Path(monitoring.__file__).parent / "page"
    assert set(ASSETS) == {path.name for path in directory.iterdir() if path.suffix not in (".py", "")}
    for name in ASSETS:
        answer = send_asset(name)
        assert answer.status == 200
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert send_asset(name, answer.headers["ETag"])[::2] == (304, b"")


@pytest.mark.parametrize("name", ["../overview.py", "__init__.py", "", "nothing.js"])
def test_nothing_else_is_sent(name):
    assert send_asset(name).status == 404


def test_the_page_needs_nothing_but_its_own_files():
    html = text_of("index.html")
    assert set(re.findall(r'(?:src|href)="page/([^"]+)"', html)) <= set(ASSETS)
    assert not re.findall(r"<script>|<style|style=|\son\w+=", html)
    everything = "".join(text_of(name) for name in ASSETS).replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?://|//[a-z]+\.[a-z]", everything)
    assert "innerHTML" not in everything


def test_both_languages_say_the_same_things():
    words = text_of("words.js")
    english, chinese = re.search(r"en: \{(.*?)\n  \},\n  zh: \{(.*?)\n  \},", words, re.DOTALL).groups()
    known = [
        {key: set(re.findall(r"\{(\w+)\}", text)) for key, text in re.findall(r'(\w+): "((?:[^"\\]|\\.)*)"', part)}
        for part in (english, chinese)
    ]
    assert known[0] == known[1]
    scripts = text_of("page.js") + text_of("parts.js")
    said = set(re.findall(r'say\("(\w+)"', scripts)) | set(re.findall(r'data-word="(\w+)"', text_of("index.html")))
    assert said <= set(known[0])


ENTRY = Entry(2, "b" * 64, 10, "v2", "m2", 0, "f2", committed="2026-01-01T00:00:02+00:00", marker='{"secret": 1}')
HISTORY = [
    Past(ENTRY, True),
    Past(replace(ENTRY, generation=1, version="v1", committed="2026-01-01T00:00:01+00:00"), False),
]
EVENTS = [
    {"event": "refused", "time": "2026-01-01T00:00:03+00:00", "checkpoint": "/ck/m3", "code": "hash", "reason": "bad"},
    {
        "event": "swapped",
        "time": "…",
        "generation": 2,
        "copy_s": 0.0,
        "load_s": 0.2,
        "since_marker_s": 1.0,
        "worker": 7,
    },
    {
        "event": "swapped",
        "time": "…",
        "generation": 2,
        "copy_s": 0.5,
        "load_s": 0.1,
        "since_marker_s": 1.5,
        "worker": 8,
    },
    {"event": "retired", "time": "…", "generation": 1, "free_s": 0.5},
]


def test_swaps_are_put_together_from_the_ledger_and_the_log():
    refused, second, first = list_swaps(HISTORY, EVENTS)
    assert (refused["refused"], refused["name"], refused["code"]) == (True, "m3", "hash")
    assert (second["generation"], second["is_kept"], second["since_marker_s"]) == (2, True, 1.5)
    assert second["phases"] == {"copy": 0.5, "hash": None, "load": 0.2, "warm_up": None, "commit": None}
    assert (first["generation"], first["is_kept"], first["since_marker_s"]) == (1, False, None)


def test_a_model_is_described_without_what_is_nobodys_business():
    record = Record("c" * 64, "m3", "hash", "bad", "judge", "2026-01-01", marker="{}", fingerprints=("x",))
    status = Status(ENTRY, (Row(7, 0, 0, 2),), None, None, (record,))
    traffic = Traffic(5, 1, 2, {0.1: 3, float("inf"): 5})
    told = describe_status(status, {7: {"pss": 100}})
    assert list(told["workers"]) == [
        {"pid": 7, "preparing": 0, "prepared": 0, "live": 2, "parent": 0, "state": "serving", "pss_bytes": 100}
    ]
    assert describe_traffic(traffic)["latency"] == [(0.1, 3), (None, 5)]
    assert "marker" not in told["committed"]
    assert not {"marker", "judge", "fingerprints"} & set(told["quarantine"][0])
