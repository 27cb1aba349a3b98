"""One worker's reloader without threads, torch or requests: every look is a call, and the model is the file's bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from serve.errors import CheckpointError
from serve.model.slot import Slot
from serve.operations.operations import Operations
from serve.policy import Policy
from serve.rollout.decision import Rule
from serve.rollout.evidence_board import Guard
from serve.settings.settings import load_settings
from serve.source.remote import make_place
from serve.store.checkpoint_store import Store
from serve.store.ledger import Ledger
from serve.store.operator_requests import OperatorRequests
from serve.store.quarantine import Quarantine
from serve.swap import seen_checkpoints
from serve.swap.context import Context
from serve.swap.host_committer import HostCommitter
from serve.swap.reloader import Reloader
from serve.swap.seen_checkpoints import Unserved
from serve.swap.shared_state import SharedState
from serve.swap.worker_committer import WorkerCommitter


class Content(bytes):
    """Stands for a predictor."""

    versions = None

    def release(self):
        pass


@dataclass(frozen=True)
class Text:
    """A model that is the content of its checkpoint."""

    predictor: Content
    format: str = "text"
    load_s: float = 0.0
    warm_up_s: float = 0.0


class TextLoader:
    """Loads them; `faults` says by content what is raised instead."""

    def __init__(self):
        self.faults, self.loads, self.previewed, self.shortage = {}, [], [], ""

    def preview(self, path, manifest):
        self.previewed.append(path.name)
        if path.read_bytes().startswith(b"another architecture"):
            raise CheckpointError("architecture", "of another architecture")

    def find_shortage(self, stored, format):
        return self.shortage

    def load(self, stored, manifest):
        content = stored.path.read_bytes()
        self.loads.append(content)
        if content in self.faults:
            raise self.faults[content]
        return Text(Content(content))


class Log(list):
    """Keeps what is emitted."""

    def emit(self, event, **facts):
        self.append({"event": event, **facts})

    def of(self, event):
        return [line for line in self if line["event"] == event]


class Worker:
    """One worker on a store and a watched place."""

    def __init__(
        self,
        root: Path,
        place: Path,
        commit: str = "host",
        keep: int = 3,
        start: str = "s",
        boot: bool = True,
        probation: Rule | None = None,
    ) -> None:
        self.log, self.loader, self.slot = (
            Log(),
            TextLoader(),
            Slot(SharedState(root / "word") if commit == "host" else None),
        )
        self.store, self.quarantine = Store(root), Quarantine(root, lambda: "j", start)
        self.ledger, self.operator_requests = Ledger(self.store), OperatorRequests(root)
        keys = {"model": "m:m", "checkpoints": str(place), "store": str(root), "keep": keep, "poll_s": 0.01}
        settings = load_settings({}, root.parent, {**keys, "settle_s": 0.01, "watch": "poll"}).find()
        context = Context(
            settings=replace(settings, settle_s=0.0),
            source=make_place(place),
            store=self.store,
            slot=self.slot,
            ledger=self.ledger,
            quarantine=self.quarantine,
            unserved=Unserved(root),
            operator_requests=self.operator_requests,
            log=self.log,
            env_digest=None,
            guard=Guard(),
            probation=probation,
            policy=Policy({}, None),
        )
        self.guard = context.guard
        self.committer = WorkerCommitter(context, root) if commit == "worker" else HostCommitter(context, root, 60.0)
        self.reloader = Reloader(context, self.committer, lambda: self.loader)
        if boot:
            self.reloader._boot(self.loader)

    def look(self, times: int = 4) -> None:
        for _ in range(times):
            self.reloader._look_safely(self.loader)

    def leave(self) -> None:
        self.reloader.stop()

    @property
    def live(self) -> bytes | None:
        live = self.slot.live
        return None if live is None else live.predictor

    @property
    def generation(self) -> int:
        live = self.slot.live
        return 0 if live is None else live.provenance.generation

    def notes(self):
        return {note.name: note for note in Unserved(self.store.root).notes()}

    def operations(self) -> Operations:
        return Operations(self.store.root)


def be_impatient(monkeypatch) -> None:
    """Let a look say at once what it otherwise says after some seconds."""
    monkeypatch.setattr(seen_checkpoints, "_GRACE_S", 0.0)
