"""Output: data goes to standard output, everything else to standard error. Bars are drawn only on a terminal; elsewhere
each finished task leaves one line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from envtool.errors import EnvtoolError, masked

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def say(line: str) -> None:
    """Print a line for people to standard error."""
    print(_shown(line), file=sys.stderr, flush=True)  # noqa: T201 - this is the door to the terminal


def warn(line: str, hint: str | None = None) -> None:
    """Print a warning, and what to do about it, to standard error."""
    _say_with_hint(f"warning: {line}", hint)


def _say_with_hint(line: str, hint: str | None) -> None:
    say(line)
    if hint:
        say(f"hint: {hint}")


def answer(text: str) -> None:
    """Print the answer of a command to standard output."""
    print(_shown(text), flush=True)  # noqa: T201 - this is the door to the terminal


def answer_script(text: str) -> None:
    """Print what a shell is to evaluate to standard output, as it is."""
    print(text, flush=True)  # noqa: T201 - this is the door to the terminal


def _shown(text: str) -> str:
    # Names in a lock are foreign text: they must not move the cursor, and no secret is ever shown.
    return masked(text).translate(_VISIBLE)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, each column but the last as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths[:-1], 0])).rstrip() for row in rows]


def answer_json(value: Any) -> None:
    """Print the answer of a command to standard output as JSON, with sorted keys."""
    answer(json.dumps(value, indent=2, sort_keys=True))


def fail(error: EnvtoolError) -> None:
    """Print an error that we know, and its hint, to standard error."""
    _say_with_hint(f"error: {error.message}", error.hint)


def size(count: float) -> str:
    """A number of bytes in the decimal units that download pages use, such as `776.4 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


class Task:
    """One long piece of work whose progress is shown."""

    def __init__(self, bars: Progress | None, label: str, total: int | None, *, in_bytes: bool) -> None:
        self._bars, self._label, self._in_bytes = bars, label, in_bytes
        self._id: TaskID | None = bars.add_task(label, total=total) if bars else None
        self._started = time.monotonic()
        self._done = 0

    def advance(self, amount: int = 1) -> None:
        """Say that so much more of the work is done; a negative amount takes it back."""
        self._done += amount
        if self._bars is not None and self._id is not None:
            self._bars.advance(self._id, amount)

    def expect(self, total: int) -> None:
        """Say how much work there is, once it is known."""
        if self._bars is not None and self._id is not None:
            self._bars.update(self._id, total=total)

    def finish(self) -> None:
        """Take the bar away and leave one line about what was done."""
        if self._bars is not None and self._id is not None:
            self._bars.remove_task(self._id)
        elapsed_s = time.monotonic() - self._started
        amount = size(self._done) if self._in_bytes else f"{self._done}"
        what = f"{self._label} ({amount}, {elapsed_s:.1f} s)" if self._done else f"{self._label} ({elapsed_s:.1f} s)"
        if self._bars is not None:
            self._bars.console.print(f"  {what}", highlight=False, markup=False)
        else:
            say(f"  {what}")


class ProgressDisplay:
    """The progress bars of one command; used as a context manager."""

    def __init__(self) -> None:
        self._bars: Progress | None = _bars() if sys.stderr.isatty() else None

    def __enter__(self) -> ProgressDisplay:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars:
            self._bars.stop()

    @contextmanager
    def task(self, label: str, total: int | None = None, *, in_bytes: bool = False) -> Iterator[Task]:
        """Show a piece of work until the block ends; only a block that ends well leaves its line."""
        task = Task(self._bars, label, total, in_bytes=in_bytes)
        yield task
        task.finish()


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    label, percentage = TextColumn("{task.description}", markup=False), TextColumn("{task.percentage:>3.0f}%")
    columns = (SpinnerColumn(), label, BarColumn(), percentage, TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
