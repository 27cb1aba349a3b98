"""Work that is done while the solver works, in the time in which nobody needs Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

_Result = TypeVar("_Result")
# The solver's first questions are answered by Python (`envtool.solve.repodata_proxy`), one thread of which runs at a time.
_QUESTIONS_S = 0.1


@contextmanager
def meanwhile(work: Callable[[], _Result]) -> Iterator[Future[_Result]]:
    """Do some work beside the block, which starts a solve; at its end the work is done.

    Args:
        work: What is needed after the block only.

    Yields:
        What comes of the work. An error of it is raised where its result is asked for.
    """
    is_solved = Event()

    def work_later() -> _Result:
        is_solved.wait(_QUESTIONS_S)
        return work()

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(work_later)
        try:
            yield answer
        finally:
            is_solved.set()
