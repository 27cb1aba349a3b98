"""What is decided about a hand-over, from what is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from envtool.deploy.gunicorn_handover import Action, Decision, Note, decide
from envtool.deploy.gunicorn_masters import Master, Process, find_masters
from envtool.deploy.release_directory import ReleaseDirectory

OLD, NEW = Master(10, "old", False, {}), Master(20, "new", True, {})
BEGUN, RETIRING = Note("old", "new"), Note("old", "new", is_retiring=True)


@pytest.mark.parametrize(
    ("note", "running", "expected"),
    [
        (None, [], Decision(Action.NOTHING)),
        (None, [OLD], Decision(Action.NOTHING)),
        # Killed before the newcomer appeared, or after it failed.
        (BEGUN, [OLD], Decision(Action.SETTLE, "old")),
        # The old master takes requests still, and the newcomer may not be well.
        (BEGUN, [OLD, NEW], Decision(Action.GO_BACK, "old")),
        # The old master was told to end, and takes none any more.
        (RETIRING, [OLD, NEW], Decision(Action.GO_ON, "new")),
        (RETIRING, [NEW], Decision(Action.SETTLE, "new")),
        # The machine was started again meanwhile: what was proved under traffic is what shall start.
        (BEGUN, [], Decision(Action.SETTLE, "old")),
        (RETIRING, [], Decision(Action.SETTLE, "old")),
        # Somebody sent USR2 by hand.
        (None, [OLD, NEW], Decision(Action.GO_BACK, "old")),
    ],
)
def test_decide(note: Note | None, running: list[Master], expected: Decision) -> None:
    assert decide(note, running) == expected


def process(pid: int, parent: int, replaces: int | None = None, serves: str = "a") -> Process:
    told = {} if replaces is None else {"GUNICORN_PID": str(replaces)}
    return Process(pid, parent, {"ENVSERVE_SERVES": f"/srv/releases/{serves}", **told})


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        ([], []),
        ([process(10, 1), process(11, 10), process(12, 10)], [(10, False)]),
        # A newcomer is its predecessor's child, and so are the workers of both.
        ([process(10, 1), process(11, 10), process(20, 10, 10), process(21, 20, 10)], [(10, False), (20, True)]),
        # Its predecessor has ended: it is the only one now, whoever its parent is.
        ([process(20, 1, 10), process(21, 20, 10)], [(20, False)]),
        # The second hand-over.
        (
            [process(20, 1, 10), process(21, 20, 10), process(30, 20, 20), process(31, 30, 20)],
            [(20, False), (30, True)],
        ),
        # Numbers begin again from below.
        ([process(900, 1), process(5, 900, 900), process(6, 5, 900)], [(900, False), (5, True)]),
    ],
)
def test_find_masters(processes: list[Process], expected: list[tuple[int, bool]]) -> None:
    assert [(master.pid, master.is_newcomer) for master in find_masters(processes)] == expected


def test_the_order_of_releases(tmp_path: Path) -> None:
    root = ReleaseDirectory(tmp_path)
    current: str | None = None
    for digest in ("a", "b", "c"):
        root.note_applied(digest, current)
        current = digest
    assert root.order() == ["a", "b", "c"]
    # Rolled back from c to b: then d follows b, and nobody goes back to c.
    root.note_applied("d", "b")
    assert root.order() == ["c", "a", "b", "d"]
    # Applied again.
    root.note_applied("b", "d")
    assert root.order() == ["c", "a", "d", "b"]


def test_current_is_switched_in_one_step(tmp_path: Path) -> None:
    root = ReleaseDirectory(tmp_path)
    root.lay_out()
    assert root.current() is None
    # As a switch that was killed leaves it.
    (tmp_path / ".current.tmp").symlink_to("nowhere")
    root.set_current("a")
    assert root.current() == "a"
    assert (tmp_path / "current").readlink() == Path("releases/a")
    root.set_current(None)
    assert root.current() is None
