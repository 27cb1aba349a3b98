"""The thread that keeps a worker's slot equal to the newest good checkpoint.

Level-triggered: each look compares what is there with what is served, so a lost event costs one poll interval and
nothing else. A fault of a checkpoint never reaches a request: what is live stays live.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple

from serve.errors import ModelError
from serve.events.event_log import EventLog
from serve.source.file_events import WakeUp
from serve.source.local import Listed, Place
from serve.source.observation import Ignore, Load, Observation, Refuse, Wait, decide
from serve.store.quarantine import Quarantine
from serve.store.rejection import explain
from serve.swap.committer import Committer
from serve.swap.context import Loader
from serve.swap.seen_checkpoints import Memory, describe
from serve.swap.unserved import Look, Note, Unserved, committed_s


class Outcome(NamedTuple):
    """What a look that was asked for has led to.

    Args:
        is_live: whether something is live.
        is_refused: whether what lies at the watched place was refused.
        reason: what the reloader says of it.
    """

    is_live: bool
    is_refused: bool
    reason: str


class Reloader:
    """Looks, decides and has the committer act.

    Args:
        place: the watched place.
        committer: makes candidates live.
        quarantine: tells what was refused.
        unserved: keeps what is published and not served.
        log: is told each change of state.
        poll_s: seconds between two looks.
        settle_s: seconds that a checkpoint without proof of its content must hold still.
        watch: how file events are used; see `serve.source.file_events`.
        make_loader: called once, in the thread: it imports torch, which the master must never do.
    """

    def __init__(
        self,
        place: Place,
        committer: Committer,
        quarantine: Quarantine,
        unserved: Unserved,
        log: EventLog,
        poll_s: float,
        settle_s: float,
        watch: str,
        make_loader: Callable[[], Loader],
    ) -> None:
        self._place, self._committer, self._quarantine, self._log = place, committer, quarantine, log
        self._unserved = unserved
        self._poll_s, self._settle_s = poll_s, settle_s
        self._make_loader = make_loader
        self._memory = Memory()
        self._wake_up = WakeUp(watch, lambda text: log.emit("watching", how=text))
        self._is_stopping = threading.Event()
        self._last_fault: str | None = None
        self.booted = threading.Event()
        # When the newest marker was written, while its checkpoint is not served; `None` when it is, or under a pin.
        self.unserved_ns: int | None = None
        self._is_unloaded = False
        self._asked, self._heard, self._answered = 0, 0, 0
        self._looked = threading.Condition()
        self.is_refused = self._has_more = False
        self.verdict = "the reloader was not started; run gunicorn with -c python:serve.gunicorn_conf"

    def run(self) -> None:
        """Boot, then look until `stop`; the body of the thread."""
        self.verdict = "the model class is being imported"
        try:
            loader = self._make_loader()
            self._boot(loader)
        except ModelError as error:
            self.verdict = error.message
            self._log.emit("stopped", reason=error.message, hint=error.hint)
            return
        finally:
            self.booted.set()
        while not self._is_stopping.is_set():
            turn = self._committer.turn
            pause_s = self._look_safely(loader)
            if self._wake_up.wait(pause_s, lambda turn=turn: self._committer.turn != turn):  # type: ignore[misc]
                self._place.refresh()
        self._wake_up.close()

    @property
    def is_behind(self) -> bool:
        """Whether this worker serves nothing, though something is committed."""
        return self._committer.is_behind()

    def look_now(self) -> int:
        """Let the thread look at once instead of at the end of its pause.

        Returns:
            What `wait_for` takes, to learn what came of it.
        """
        with self._looked:
            self._asked += 1
            asked = self._asked
        self._wake_up.wake()
        return asked

    def wait_for(self, asked: int, timeout_s: float) -> Outcome | None:
        """Wait until what a look has found is live or refused.

        Args:
            asked: what `look_now` returned.
            timeout_s: the longest wait.

        Returns:
            What came of it; `None` when it takes longer.
        """
        with self._looked:
            if not self._looked.wait_for(lambda: self._answered >= asked or self._is_stopping.is_set(), timeout_s):
                return None
        return Outcome(self._committer.is_live, self.is_refused, self.verdict)

    def stop(self) -> None:
        """Let the thread end after the present look."""
        self._is_stopping.set()
        self._committer.leave()
        self._wake_up.wake()
        with self._looked:
            self._looked.notify_all()

    def _boot(self, loader: Loader) -> None:
        try:
            self._committer.prune()
            self._committer.boot(loader)
        except Exception as error:  # a full disk, say; each look tries again
            self._tell_fault(explain(error))

    def _look_safely(self, loader: Loader) -> float:
        self._heard = self._asked
        self.is_refused = self._has_more = False
        try:
            self._wake_up.supervise(self._place.directory)
            pause_s = self._look(loader)
            self._last_fault = None
        except Exception as error:  # a dead reloader would serve an old model for ever, and nobody would know
            self._tell_fault(explain(error))
            pause_s, self.is_refused = self._poll_s, True
        if pause_s > 0 and not self._has_more:
            with self._looked:
                self._answered = self._heard
                self._looked.notify_all()
        # Jitter keeps the workers of one host from looking in step.
        return pause_s * random.uniform(0.9, 1.1)  # noqa: S311 - nothing secret about it

    def _tell_fault(self, fault: str) -> None:
        self.verdict = fault
        if fault != self._last_fault:
            self._last_fault = fault
            self._log.emit("fault", reason=fault)

    def _look(self, loader: Loader) -> float:
        """Do what the host and its operators ask for, then look at the watched place.

        Returns:
            After how many seconds to look again.
        """
        self._committer.retire()
        self._committer.check(loader)
        if self._committer.is_unloaded():
            self._is_unloaded, self.unserved_ns = True, None
            self.verdict = "unloaded, as a request has ordered; load brings it back"
            return self._poll_s
        if self._is_unloaded:
            self._is_unloaded = False
            self._committer.come_back(loader)
        if self._committer.attend(loader):
            return 0.0
        if self._committer.roll_back(loader) is not None:
            return 0.0
        committed = self._committer.committed()
        self._memory.learn(committed)
        pinned = self._committer.is_pinned() if committed else None
        if pinned is not None:
            self.verdict, self.unserved_ns = pinned, None
            return self._poll_s
        return self._look_at_place(loader)

    def _look_at_place(self, loader: Loader) -> float:
        is_ranked, listed, now_s = self._place.is_directory, self._place.list(), time.monotonic()
        self._memory.compare(listed, committed_s(self._memory.answering))
        actions: list[tuple[Observation, Ignore | Wait]] = []
        pause_s = self._poll_s
        for seen in self._observe(listed):
            action = self._act(loader, seen, is_ranked)
            actions.append((seen, action))
            if isinstance(action, Wait):
                pause_s, self._has_more = min(action.look_again_s, self._poll_s), True
            if isinstance(action, Wait) or action.is_final:
                break
        self._memory.learn(self._committer.committed())
        waiting = [
            (seen, action.reason) for seen, action in actions if isinstance(action, Ignore) and action.is_waiting
        ]
        is_served = bool(actions) and isinstance(actions[0][1], Ignore) and actions[0][1].is_served
        notes = self._unserved.review(Look(self._place, listed, self._memory, is_served, waiting, now_s), self._log)
        if self._quarantine.retain({one.path.name for one in listed}):
            self._committer.prune()
        self._conclude(actions, notes)
        return pause_s

    def _observe(self, listed: Sequence[Listed]) -> Iterator[Observation]:
        for one in listed:
            with contextlib.suppress(FileNotFoundError):  # gone between the listing and the look
                yield self._place.look_at(one)

    def _conclude(self, actions: Sequence[tuple[Observation, Ignore | Wait]], notes: Sequence[Note]) -> None:
        """Say what is there, and since when something is not served."""
        answering = self._memory.answering
        unserved_ns = [note.marker_mtime_ns for note in notes if note.marker_mtime_ns]
        first = actions[0][1] if actions else None
        if actions and not (isinstance(first, Ignore) and first.is_final):
            unserved_ns.append(self._since_ns(actions[0][0]))
        self.is_refused = isinstance(first, Ignore) and not first.is_final and not first.is_waiting
        said = [f"{seen.path.name}: {action.reason}" for seen, action in actions[:1]]
        said += [f"{note.name}: {note.reason}" for note in notes if not said or note.name != actions[0][0].path.name]
        nothing = f"no checkpoint with a marker at {self._place.path}"
        if answering is not None:
            nothing += f"; {describe(answering)} is being served on"
        self.verdict, self.unserved_ns = "; ".join(said) or nothing, max(unserved_ns, default=None)

    def _since_ns(self, seen: Observation) -> int:
        # The marker of a publisher whose clock is ahead was not written in the future.
        ago_s = time.monotonic() - self._memory.first_seen_s(seen)
        return min(seen.marker.mtime_ns, time.time_ns() - int(ago_s * 1e9))

    def _act(self, loader: Loader, seen: Observation, is_ranked: bool) -> Ignore | Wait:
        """Decide about one observation, and do it."""
        now_s = time.monotonic()
        record = self._quarantine.find(seen.fingerprint)
        known = self._memory.recall(seen, is_ranked, now_s, record.reason if record else None)
        action = decide(seen, known, now_s, self._settle_s)
        if isinstance(action, Refuse):
            return self._committer.refuse(action)
        if not isinstance(action, Load):
            return action
        self.verdict, self.unserved_ns = f"{seen.path.name}: it is being loaded", self._since_ns(seen)
        outcome = self._committer.commit(loader, action)
        if isinstance(outcome, Ignore) and outcome.is_served:
            self._memory.learn(self._committer.committed())
            self._memory.serve(seen.fingerprint, seen.order)
        return outcome
