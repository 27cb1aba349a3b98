"""The search for an answer that holds as many items as possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def hold_most(
    important: Sequence[_Item],
    others: Sequence[_Item],
    attempts: Callable[[Sequence[Sequence[_Item]]], Sequence[_Answer | None]],
    stays: Callable[[_Item, _Answer], bool],
) -> _Answer | None:
    """An answer that holds as many items as possible: with any other one held too, there would be none.

    Args:
        others: what else is to be held; it is known that not all of it can be.
        attempts: for each of several selections, an answer that holds all of it, or None where there is none.
        stays: whether an answer happens to have an item that it was not made to hold.

    Returns:
        None where there is no answer even if nothing is held.
    """
    first = next((each for each in attempts([important, ()] if important else [()]) if each is not None), None)
    if first is None:
        return None
    answer: _Answer = first
    items = [*important, *others]
    held = [each for each in items if stays(each, first)]

    def add(candidates: Sequence[_Item], is_refused: bool) -> None:
        nonlocal answer
        found = None if is_refused or not candidates else attempts([[*held, *candidates]])[0]
        if found is not None:
            held.extend(candidates)
            answer = found
        elif len(candidates) > 1:
            middle, before = len(candidates) // 2, len(held)
            add(candidates[:middle], False)
            # Where the first half could be held as a whole, the second alone is to blame.
            add(candidates[middle:], is_refused=len(held) == before + middle)

    free = [each for each in items if not stays(each, first)]
    # What cannot stay by itself cannot stay with others either; most of what moves is found so, all at once.
    alone = attempts([[*held, each] for each in free])
    possible = [each for each, found in zip(free, alone) if found is not None]
    add(possible, is_refused=possible == free)
    return answer
