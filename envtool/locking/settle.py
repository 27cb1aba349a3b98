"""Hold as much as can be held: the search for an answer from which no further member could have stayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def hold_most(
    important: Sequence[_Item],
    others: Sequence[_Item],
    attempt: Callable[[Sequence[_Item]], _Answer | None],
    stays: Callable[[_Item, _Answer], bool],
) -> _Answer | None:
    """An answer that holds as many items as possible: with any other one held too, there would be none.

    Args:
        important: What is held first if it can be.
        others: What else is to be held; it is known that not all of it can be.
        attempt: An answer that holds all the given items, or None where there is none.
        stays: Whether an answer happens to have an item that it was not made to hold.

    Returns:
        None where there is no answer even if nothing is held.
    """
    first = attempt(important)
    if first is None and important:
        first = attempt(())
    if first is None:
        return None
    answer: _Answer = first
    items = [*important, *others]
    held = [each for each in items if stays(each, first)]

    def add(candidates: Sequence[_Item], is_refused: bool) -> None:
        nonlocal answer
        found = None if is_refused or not candidates else attempt([*held, *candidates])
        if found is not None:
            held.extend(candidates)
            answer = found
        elif len(candidates) > 1:
            middle, before = len(candidates) // 2, len(held)
            add(candidates[:middle], False)
            # Where the first half could be held as a whole, the second alone is to blame.
            add(candidates[middle:], is_refused=len(held) == before + middle)

    add([each for each in items if not stays(each, first)], is_refused=True)
    return answer
