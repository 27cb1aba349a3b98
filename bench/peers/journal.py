"""What was measured so far, in a file that a run which was broken off goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

Key = tuple[int, str, str]


class Journal:
    """The results of one comparison.

    Args:
        path: of the file.
        facts: what it was measured with.
        resume: whether to go on from what the file has; otherwise it begins anew.
    """

    def __init__(self, path: Path, facts: Mapping[str, object], resume: bool) -> None:
        self._path, self.facts = path, dict(facts)
        self.results: list[dict[str, object]] = []
        self.bare: list[dict[str, object]] = []
        self.left_out: list[dict[str, object]] = []
        if resume and path.exists():
            found = json.loads(path.read_text())
            self.results, self.bare, self.left_out = found["results"], found["bare"], found["left_out"]

    def has(self, key: Key) -> bool:
        """Whether a round of a model and a peer is there, or will not be."""
        if key[1:] in ((each["model"], each["peer"]) for each in self.left_out):
            return True
        return any((result["round"], result["model"], result["peer"]) == key for result in self.results)

    def has_bare(self, number: int, model: str) -> bool:
        """Whether the model alone was measured in a round."""
        return any((each["round"], each["model"]) == (number, model) for each in self.bare)

    def add(self, number: int, results: Sequence[Mapping[str, object]]) -> None:
        """Keep what one server did in one round."""
        self.results += [{"round": number, **result} for result in results]
        self.save()

    def add_bare(self, number: int, model: str, requests_per_s: float) -> None:
        """Keep what the model alone did in one round."""
        self.bare.append({"round": number, "model": model, "requests_per_s": requests_per_s})
        self.save()

    def leave_out(self, number: int, model: str, peer: str, reason: str) -> None:
        """Note that a peer failed with a model; it is not asked again."""
        self.left_out.append({"round": number, "model": model, "peer": peer, "reason": reason})
        self.save()

    @property
    def rounds(self) -> int:
        """How many rounds there are results of."""
        return len({result["round"] for result in self.results})

    def save(self) -> None:
        """Write the file, whole or not at all."""
        content = {**self.facts, "rounds": self.rounds, "left_out": self.left_out, "bare": self.bare}
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps({**content, "results": self.results}, indent=1) + "\n")
        temporary.replace(self._path)
