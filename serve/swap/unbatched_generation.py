"""The generation whose requests share no runs any more, known to all workers of a host at once.

It stands in the file of the commit word, which all of them have mapped, whatever way of committing they use.
"""

from __future__ import annotations

from pathlib import Path

from serve.swap.shared_state import SharedState


class UnbatchedGeneration:
    """Whether requests may share runs, seen by one worker."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._opened: SharedState | None = None

    @property
    def _word(self) -> SharedState:
        if self._opened is None:
            self._root.mkdir(parents=True, exist_ok=True)
            self._opened = SharedState(self._root / "word")
        return self._opened

    def is_over(self, generation: int) -> bool:
        """Whether the requests of a generation share no runs any more."""
        return self._word.unbatched == generation

    def end(self, generation: int) -> None:
        """Have every worker run each request of a generation alone, from its next run on."""
        self._word.unbatched = generation
