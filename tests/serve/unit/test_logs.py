from __future__ import annotations

import json
import os

from serve.events.event_log import EventLog, write_line


def test_one_json_line_for_each_event():
    lines = []
    log = EventLog({"model": "m"}, lambda event: lines.append(event.line))
    log.emit("swapped", generation=3, reason='two\nlines and a "quote"')
    (line,) = lines
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    facts = json.loads(line)
    assert facts.pop("time").endswith("+00:00")
    assert facts == {
        "event": "swapped",
        "worker": os.getpid(),
        "model": "m",
        "generation": 3,
        "reason": 'two\nlines and a "quote"',
    }


def test_lines_go_to_standard_error(capfd):
    EventLog({}, write_line).emit("hello")
    assert json.loads(capfd.readouterr().err)["event"] == "hello"
