"""The thread that keeps a worker's slot equal to the newest good checkpoint, and lets candidates into the store.

Level-triggered: each look compares what is there with what is served, so a lost event costs one poll interval and
nothing else. A fault of a checkpoint never reaches a request: what is live stays live."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NamedTuple, Union

from serve.errors import CheckpointError, CheckpointMovedError, ModelError
from serve.policy import PolicyWatch
from serve.source.file_events import FileEvents
from serve.source.local import look_at_checkpoint
from serve.source.observation import Ignore, Load, Observation, Refuse, Wait, decide
from serve.store.ledger import Entry
from serve.store.quarantine import Rejection, code_of, explain, reject_entry
from serve.swap import generation
from serve.swap.background_task import BackgroundTask
from serve.swap.changed_weights import ChangedWeights, LiveCheck
from serve.swap.seen_checkpoints import Look, Note, SeenCheckpoints, describe

if TYPE_CHECKING:
    from serve.checkpoint.manifest import Stored
    from serve.model.loader import ModelLoader
    from serve.swap.context import Committer, Context

_AGAIN_S = 0.2
# With 400 MB and all cores busy, the p99 during the copy fell from twice to 1.2 times the one without, and the copy
# took a tenth longer (bench/swap.py).
_NICENESS = 10
_LARGE_BYTES = 8 * 1024 * 1024
_LOOK_S = 0.2
_SHORT_SHA256 = 12  # how many digits of the sha256 stand for a version that no marker named
_NO_ENTRY = Entry(0, "", 0, "", "", 0, "")


class Admitted(NamedTuple):
    """A candidate that may be made live. `entry`: what is to be committed; the ledger numbers it."""

    stored: Stored
    entry: Entry


class Admission:
    """Lets candidates in, for one worker; `needed` is `Committer.kept`."""

    def __init__(self, context: Context, needed: Callable[[], frozenset[str]]) -> None:
        self._context, self._needed = context, needed
        self.is_stopping = False  # then a copy that is under way is broken off; the worker ends

    def admit(self, loader: ModelLoader, candidate: Load) -> Admitted | Ignore | Wait:
        """Let a candidate in. Returns what may be made live; or what became of a candidate that may not."""
        seen = candidate.observation
        marker = seen.text.decode(errors="replace")
        if candidate.manifest.sha256 is not None:
            record = self._context.quarantine.find_sha256(candidate.manifest.sha256, marker)
            # A marker that was touched or written again asks to look again at what the bytes do not prove.
            if record is not None and record.retry_at_s is None:
                return Ignore(f"refused: {record.reason}")
        try:
            self._preview(loader, candidate)
            stored = self._copy(candidate)
            self._context.policy.require(candidate.manifest.stated, stored.sha256)
        except CheckpointMovedError as error:
            return Wait(error.message, _AGAIN_S)
        except Exception as error:
            return self.refuse(Refuse(seen, code_of(error), explain(error)), error, candidate.manifest.version or "")
        record = self._context.quarantine.find_sha256(stored.sha256, marker)
        if record is not None and record.retry_at_s is None:
            self._context.quarantine.recognize(record, seen.fingerprint)
            return Ignore(f"refused: {record.reason}")
        entry = Entry(
            generation=0, sha256=stored.sha256, size_bytes=stored.size_bytes,
            version=candidate.manifest.version or stored.sha256[:_SHORT_SHA256], name=seen.path.name,
            marker_mtime_ns=seen.marker.mtime_ns, fingerprint=seen.fingerprint, marker_generation=seen.generation,
            marker=marker,
        )  # fmt: skip
        return Admitted(stored, entry)

    def refuse(self, action: Refuse, error: BaseException | None = None, version: str = "") -> Ignore:
        """Put an observation into quarantine. Returns the same in a form that asks for nothing more."""
        seen = action.observation
        is_lasting = error is None or reject_entry(error, _NO_ENTRY).is_lasting
        marker = seen.text.decode(errors="replace")
        about = seen.path.name, action.code, action.reason, seen.fingerprint
        rejection = Rejection(*about, version=version, is_lasting=is_lasting, marker=marker)
        return self._context.reject(rejection, self._needed)

    def _copy(self, candidate: Load) -> Stored:
        """Admit a candidate to the store; a large one while requests go first."""
        seen = candidate.observation.checkpoint
        if seen is None or seen.size_bytes < _LARGE_BYTES:
            return self._context.store.admit(candidate, self._needed)
        copying = BackgroundTask(lambda: self._context.store.admit(candidate, self._needed), "copy", _NICENESS)
        while not copying.wait(_LOOK_S):
            if self.is_stopping:
                raise CheckpointMovedError("the worker ends")
        return copying.take()

    def _preview(self, loader: ModelLoader, candidate: Load) -> None:
        """Refuse before the copy what the first bytes prove; those of another machine are copied first."""
        seen, sha256 = candidate.observation, candidate.manifest.sha256
        if seen.copy is not None or (sha256 is not None and self._context.store.has(sha256)):
            return
        try:
            loader.preview(seen.path, candidate.manifest)
        except CheckpointError as error:
            if look_at_checkpoint(seen.path) != seen.checkpoint:
                raise CheckpointMovedError(f"{seen.path.name}: it changed since it was observed") from error
            raise


class Reloader:
    """Looks, decides, admits, has the committer act; only its thread makes the loader, which imports torch."""

    def __init__(self, context: Context, committer: Committer, make_loader: Callable[[], ModelLoader]) -> None:
        self._context, self._source, self._log = context, context.source, context.log
        self._admission, self._committer = Admission(context, committer.kept), committer
        self._changed_weights = ChangedWeights(context, committer)
        self._live_check = LiveCheck(context, self._changed_weights)
        self._policy_watch = PolicyWatch(context.policy, context.store.root, context.log)
        self._poll_s, self._settle_s = context.settings.poll_s, context.settings.settle_s
        self._make_loader = make_loader
        self._seen = SeenCheckpoints()
        watch = context.settings.watch if context.source.has_events else "poll"
        self._wake_up = FileEvents(watch, lambda text: context.log.emit("watching", how=text))
        self._is_stopping = threading.Event()
        self._last_fault: str | None = None
        self.booted = threading.Event()  # the committed generation is live again or cannot be
        self._is_unloaded = self._has_more = False
        self._asked, self._heard, self._answered = 0, 0, 0
        self._outcome = ReloaderStatus("")
        self._looked = threading.Condition()
        # What it found when it looked last.
        self.status = ReloaderStatus("the reloader was not started; run gunicorn with -c python:serve.gunicorn_conf")

    @property
    def is_behind(self) -> bool:
        """Whether this worker serves nothing of what is committed, or may find itself without it in a moment."""
        context = self._context
        has_it = context.slot.live is not None and self._committer.is_joined
        return not has_it and bool(context.ledger.read()) and not context.operator_requests.is_unloaded()

    def run(self) -> None:
        """Boot, then look until `stop`; the body of the thread."""
        self.status = ReloaderStatus("the model class is being imported")
        try:
            loader = self._make_loader()
            self.status = ReloaderStatus("what is committed is being loaded")
            self._boot(loader)
        except ModelError as error:
            self.status = ReloaderStatus(error.message)
            self._log.emit("stopped", reason=error.message, hint=error.hint)
            return
        finally:
            self.booted.set()
        while not self._is_stopping.is_set():
            turn = self._committer.turn
            pause_s = self._look_safely(loader)
            if self._wake_up.wait(pause_s, lambda turn=turn: self._committer.turn != turn):  # type: ignore[misc]
                self._source.refresh()
        self._wake_up.close()

    def look_now(self) -> int:
        """Let the thread look at once, not at the end of its pause; return what `wait_for` takes."""
        with self._looked:
            self._asked += 1
            asked = self._asked
        self._wake_up.wake()
        return asked

    def wait_for(self, asked: int, timeout_s: float) -> ReloaderStatus | None:
        """Wait until what a look has found is live or refused. Returns what came of it; `None` when it takes longer."""
        with self._looked:
            if not self._looked.wait_for(lambda: self._answered >= asked or self._is_stopping.is_set(), timeout_s):
                return None
            return self._outcome

    def stop(self) -> None:
        """Let the thread end after the present look."""
        self._is_stopping.set()
        self._admission.is_stopping = True
        self._committer.leave()
        self._wake_up.wake()
        with self._looked:
            self._looked.notify_all()

    def _boot(self, loader: ModelLoader) -> None:
        try:
            generation.prune(self._context, self._committer.kept)
            self._committer.boot(loader)
        except Exception as error:  # for example a full disk; each look tries again
            self._report_fault(explain(error))

    def _look_safely(self, loader: ModelLoader) -> float:
        self._heard, self._has_more = self._asked, False
        self.status = replace(self.status, is_refused=False)
        try:
            self._wake_up.supervise(self._source.directory)
            pause_s = self._look(loader)
            self._last_fault = None
        except Exception as error:  # a dead reloader would serve an old model for ever, unnoticed
            self._report_fault(explain(error))
            self.status = replace(self.status, is_refused=True)
            pause_s = self._poll_s
        if pause_s > 0 and not self._has_more:
            status = self.status  # kept for those who wait: the next look begins with a status of its own
            with self._looked:
                self._outcome = replace(status, is_live=self._context.slot.live is not None)
                self._answered = self._heard
                self._looked.notify_all()
        # Jitter keeps the workers of one host from looking in step.
        return pause_s * random.uniform(0.9, 1.1)  # noqa: S311 - nothing secret about it

    def _report_fault(self, fault: str) -> None:
        self.status = replace(self.status, verdict=fault)
        if fault != self._last_fault:
            self._last_fault = fault
            self._log.emit("fault", reason=fault)

    def _look(self, loader: ModelLoader) -> float:
        """Do what the host and its operators ask for, then look at the watched place."""
        generation.free(self._context.slot.take_drained(), self._log)
        if self._changed_weights.look():
            self._seen = SeenCheckpoints()  # nothing is being served
        self._live_check.attend(loader)
        self._policy_watch.look()
        if self._context.operator_requests.is_unloaded():
            self._is_unloaded, live = True, self._context.slot.live
            if live is not None:
                self._context.slot.vacate()
                self._log.emit("unloaded", **generation.identify(live))
            self.status = ReloaderStatus("unloaded, as a request has ordered; load brings it back")
            return self._poll_s
        if self._is_unloaded:
            self._is_unloaded = False
            self._committer.come_back(loader)
        if self._committer.attend(loader):
            return 0.0
        if self._roll_back(loader):
            return 0.0
        committed = self._committed()
        self._seen.learn(committed)
        pin = self._context.operator_requests.pin() if committed else None
        if pin is not None:
            self.status = ReloaderStatus(f"pinned to version {pin.version} since {pin.pinned}")
            return self._poll_s
        return self._look_at_place(loader)

    def _committed(self) -> list[Entry]:
        """Return the generations up to the live one of this worker, the oldest first."""
        return self._context.ledger.up_to(self._context.slot.number)

    def _roll_back(self, loader: ModelLoader) -> bool:
        """Carry out the last rollback that was ordered, and return whether there was one to do."""
        order = self._context.operator_requests.rollback()
        if order is None or self._committer.is_done(order) or self._context.quarantine.find(order.fingerprint):
            return False
        live = self._context.slot.live
        if live is not None and (live.provenance.sha256, live.provenance.version) == (order.sha256, order.version):
            return False  # ordered twice
        entries = [entry for entry in self._context.ledger.read() if entry.sha256 == order.sha256]
        if order.entry is not None:
            if self._context.operator_requests.pin() is not None:
                return False
            self._context.store.adopt(Path(order.path))
            entries = [Entry(**order.entry)]
        stored = self._context.store.find(order.sha256)
        if stored is not None and entries:
            self._committer.move(loader, stored, order.propose(entries[-1]))
        else:
            reason = f"the {order.cause} to {order.version}: its checkpoint is not in the store any more"
            rejection = Rejection(order.version, "store", reason, order.fingerprint, version=order.version)
            self._context.reject(rejection, self._committer.kept)
        return True

    def _look_at_place(self, loader: ModelLoader) -> float:
        is_ranked, listed, now_s = self._source.is_directory, self._source.list(), time.monotonic()
        self._seen.compare(listed, lambda: self._context.unserved.last_listing(self._source.path))
        decided: list[Decided] = []
        pause_s = self._poll_s
        for seen in self._source.observe(listed):
            action = self._act(loader, seen, is_ranked)
            decided.append((seen, action))
            if isinstance(action, Wait):
                pause_s, self._has_more = min(action.look_again_s, self._poll_s), True
            if isinstance(action, Wait) or action.is_final:
                break
        self._seen.learn(self._committed())
        waiting = [(seen, action.reason) for seen, action in decided if action.is_waiting]
        is_served = bool(decided) and decided[0][1].is_served
        look = Look(self._source, listed, self._seen, is_served, waiting, now_s)
        notes = self._context.unserved.review(look, self._log)
        if self._context.quarantine.retain({one.path.name for one in listed}):
            generation.prune(self._context, self._committer.kept)
        self.status = self._conclude(decided, notes)
        return pause_s

    def _act(self, loader: ModelLoader, seen: Observation, is_ranked: bool) -> Ignore | Wait:
        """Decide about one observation, and do it."""
        now_s = time.monotonic()
        record = self._context.quarantine.find(seen.fingerprint)
        known = self._seen.recall(seen, is_ranked, now_s, record.reason if record else None)
        action = decide(seen, known, now_s, self._settle_s)
        if isinstance(action, Refuse):
            return self._admission.refuse(action)
        if not isinstance(action, Load):
            return action
        self.status = ReloaderStatus(f"{seen.path.name}: it is being loaded", self._since_ns(seen))
        admitted = self._admission.admit(loader, action)
        outcome = self._committer.move(loader, *admitted) if isinstance(admitted, Admitted) else admitted
        if outcome.is_served:
            self._seen.learn(self._committed())
            self._seen.serve(seen.fingerprint, seen.order)
        return outcome

    def _conclude(self, decided: Sequence[Decided], notes: Sequence[Note]) -> ReloaderStatus:
        """Sum up a look, the highest rank first: what is at the place, and since when something is not served."""
        unserved_ns = [note.marker_mtime_ns for note in notes if note.marker_mtime_ns]
        first = decided[0][1] if decided else None
        if decided and not decided[0][1].is_final:
            unserved_ns.append(self._since_ns(decided[0][0]))
        said = [f"{seen.path.name}: {action.reason}" for seen, action in decided[:1]]
        said += [f"{note.name}: {note.reason}" for note in notes if not said or note.name != decided[0][0].path.name]
        nothing = f"no checkpoint with a marker at {self._source.path}"
        if self._seen.answering is not None:
            nothing += f"; {describe(self._seen.answering)} is being served on"
        is_refused = isinstance(first, Ignore) and not first.is_final and not first.is_waiting
        return ReloaderStatus("; ".join(said) or nothing, max(unserved_ns, default=None), is_refused)

    def _since_ns(self, seen: Observation) -> int:
        """Return when a marker was written, on the wall clock; if that is in the future, when it was first seen."""
        ago_s = time.monotonic() - self._seen.first_seen_s(seen)
        return min(seen.marker.mtime_ns, time.time_ns() - int(ago_s * 1e9))


Decided = tuple[Observation, Union[Ignore, Wait]]


@dataclass(frozen=True)
class ReloaderStatus:
    """What a reloader found when it looked last; `unserved_ns`: when the marker of what is not served was written."""

    verdict: str
    unserved_ns: int | None = None
    is_refused: bool = False
    is_live: bool = False  # whether anything is, after a look that was asked for
