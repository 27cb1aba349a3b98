"""The thread that keeps a worker's slot equal to the newest good checkpoint.

Level-triggered: each look compares what is there with what is served, so a lost event costs one poll interval and
nothing else. A fault of a checkpoint never reaches a request: what is live stays live.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Callable

from serve.checkpoint import Ignore, Load, Refuse, Wait, decide
from serve.commit import Committer, Loader
from serve.errors import CheckpointError, CheckpointMovedError, ModelError, ServeError
from serve.logs import EventLog
from serve.memory import Memory
from serve.place import Place
from serve.wakeup import WakeUp


class Reloader:
    """Looks, decides and has the committer act.

    Args:
        place: the watched place.
        committer: makes candidates live.
        log: is told each change of state.
        poll_s: seconds between two looks.
        settle_s: seconds that a checkpoint without proof of its content must hold still.
        is_watching: whether file events may wake it.
        make_loader: called once, in the thread: it imports torch, which the master must never do.
    """

    def __init__(
        self,
        place: Place,
        committer: Committer,
        log: EventLog,
        poll_s: float,
        settle_s: float,
        is_watching: bool,
        make_loader: Callable[[], Loader],
    ) -> None:
        self._place, self._committer, self._log = place, committer, log
        self._poll_s, self._settle_s = poll_s, settle_s
        self._make_loader = make_loader
        self._memory = Memory()
        self._wake_up = WakeUp(is_watching, lambda text: log.emit("watching", how=text))
        self._is_stopping = threading.Event()
        self._last_fault: str | None = None
        self.booted = threading.Event()
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
            self._wake_up.wait(self._look_safely(loader))
        self._wake_up.close()

    def stop(self) -> None:
        """Let the thread end after the present look."""
        self._is_stopping.set()
        self._wake_up.wake()

    def _boot(self, loader: Loader) -> None:
        try:
            entry = self._committer.committed()
            if entry is not None and self._committer.restore(loader, entry):
                self._memory.serve(entry.fingerprint, entry.order)
        except Exception as error:  # the newest checkpoint may still be good; only the way back is lost
            self._log.emit("not_restored", reason=_explain(error))

    def _look_safely(self, loader: Loader) -> float:
        try:
            self._wake_up.supervise(self._place.directory)
            pause_s = self._look(loader)
            self._last_fault = None
        except Exception as error:  # a dead reloader would serve an old model for ever, and nobody would know
            fault = self.verdict = _explain(error)
            if fault != self._last_fault:
                self._last_fault = fault
                self._log.emit("fault", reason=fault)
            pause_s = self._poll_s
        # Jitter keeps the workers of one host from looking in step.
        return pause_s * random.uniform(0.9, 1.1)  # noqa: S311 - nothing secret about it

    def _look(self, loader: Loader) -> float:
        """Look once at the watched place, and return after how many seconds to look again."""
        self._committer.retire()
        is_ranked = self._place.is_directory
        verdict = None
        for seen in self._place.observe():
            now_s = time.monotonic()
            action = decide(seen, self._memory.recall(seen, is_ranked, now_s), now_s, self._settle_s)
            if isinstance(action, Load):
                action = self._load(loader, action)
            if isinstance(action, Refuse):
                self._refuse(action, is_lasting=True)
            verdict = verdict or f"{seen.path.name}: {action.reason}"
            if isinstance(action, Wait):
                self.verdict = verdict
                return min(action.look_again_s, self._poll_s)
            if isinstance(action, Ignore) and action.is_final:
                break
        self.verdict = verdict or f"no checkpoint with a marker at {self._place.path}"
        return self._poll_s

    def _load(self, loader: Loader, candidate: Load) -> Ignore | Wait | Refuse:
        """Try a candidate, and return what its outcome asks for."""
        seen = candidate.observation
        self.verdict = f"{seen.path.name}: it is being loaded"
        try:
            self._committer.commit(loader, candidate)
        except CheckpointMovedError as error:
            return Wait(error.message, self._settle_s)
        except CheckpointError as error:
            return Refuse(seen, error.code, _explain(error))
        except ModelError as error:
            return Refuse(seen, "model", _explain(error))
        except Exception as error:  # a full disk, no memory, a file server that is gone: it may pass
            reason = _explain(error)
            self._refuse(Refuse(seen, type(error).__name__, reason), is_lasting=False)
            return Ignore(reason)
        self._memory.serve(seen.fingerprint, seen.order)
        return Ignore("it is being served", is_final=True)

    def _refuse(self, refusal: Refuse, is_lasting: bool) -> None:
        if self._memory.refuse(refusal, is_lasting, time.monotonic()):
            self._log.emit(
                "refused",
                checkpoint=str(refusal.observation.path),
                code=refusal.code,
                reason=refusal.reason,
                will_retry=not is_lasting,
            )


def _explain(error: Exception) -> str:
    if isinstance(error, ServeError):
        return error.message + (f" (hint: {error.hint})" if error.hint else "")
    return f"{type(error).__name__}: {error}"
