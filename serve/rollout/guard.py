"""One worker's view of the generation that is on trial: what each run and each answer is counted by."""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable

from serve.rollout.decision import SLOWER
from serve.rollout.evidence_board import EvidenceBoard

# After so many answers that both generations spoil, and none that only the new one does, a signal means nothing.
_MOST_SHARED = 50
# Of pairs of runs, for one suspicion.
_PAIRS = 12


class Guard:
    """Counts for the trials of one model in one worker; until `open`, it counts nothing.

    Args:
        retry: which spoiled answers are made again: `finite`, `all` or `off`.
        slower: how many times longer than before a run may take.
        is_rolled_out: whether the label has a rule.
        is_canary: whether its answers are looked at for as long as its rollout goes on.
    """

    def __init__(
        self, retry: str = "off", slower: float = 3.0, is_rolled_out: bool = False, is_canary: bool = False
    ) -> None:
        self.retry, self.slower, self.is_rolled_out = retry, slower, is_rolled_out
        self.is_judged = is_rolled_out and is_canary
        # What is asked instead of the generation before: for a canary the stable label.
        self.elsewhere: Any = None
        self.board: EvidenceBoard | None = None
        # Has the evidence looked at.
        self.wake: Callable[[], None] = lambda: None
        self.pairs_wanted = 0
        # The generation whose answers are looked at when they are written, and not before.
        self.left_to_writer = 0
        self._row = 0
        self._read_trial: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._shared: Counter[tuple[int, str]] = Counter()

    def open(self, board: EvidenceBoard, row: int, read_trial: Callable[[], tuple[int, int]]) -> None:
        """Begin to count in this worker's row.

        `read_trial` returns the generation that is on trial, or 0, and the number of the last return.
        """
        self._row, self._read_trial = row, read_trial
        self.board = board

    def note_run(self, generation: int, answers: int, rows: int, seconds: float) -> bool:
        """Count one run of the module, and return whether its generation is on trial, or has just been taken back."""
        if self.board is None:
            return False
        self.board.note_run(self._row, generation, answers, rows, seconds)
        return self.is_on_trial(generation)

    def is_on_trial(self, generation: int) -> bool:
        """Whether answers of a generation are looked at."""
        on_trial, returned = self._read_trial()
        return generation in (on_trial, returned - 1)

    def note(self, generation: int, signal: str, is_bad: bool = True) -> None:
        """Count an answer that is spoiled, or compared."""
        if self.board is not None:
            self.board.note_bad(self._row, generation, signal, int(is_bad))
            self.wake()

    def note_shared(self, generation: int, signal: str) -> None:
        """Count an answer that the generation before spoils just so; it speaks against neither."""
        self._shared[generation, signal] += 1

    def means_something(self, generation: int, signal: str) -> bool:
        """Whether a signal still tells the two generations apart."""
        return self._shared[generation, signal] < _MOST_SHARED

    def suspect(self) -> None:
        """Have the next runs compared with those of the generation before."""
        self.pairs_wanted = _PAIRS

    def note_pair(self, generation: int, is_slower: bool) -> None:
        """Count a run that was timed on both generations."""
        self.pairs_wanted -= 1
        self.note(generation, SLOWER, is_slower)
