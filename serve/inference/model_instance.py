"""One model, or one label of it (stable, canary, shadow), in one worker: settings in, slot and reloader out.

Making it starts nothing and imports no torch; `start` does, in the worker, after the fork."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from serve.checkpoint.provenance import START_VARIABLE, read_env_digest
from serve.errors import LedgerError, ModelError
from serve.events.event_log import EventLog, Journal, Subscriber, write_line
from serve.events.webhook import Webhook
from serve.fleet.fleet_committer import FleetCommitter
from serve.fleet.gate import Gate
from serve.fleet.messages import PROTOCOL
from serve.fleet.state import REFUSE
from serve.inference.recorder import Recorder
from serve.model.slot import GIVEN_UP, Slot
from serve.settings.settings import SHADOW, Settings
from serve.swap.background_task import PREPARATION
from serve.swap.context import make_committer, make_context
from serve.swap.reloader import Reloader
from serve.swap.shared_state import Membership, SharedState

if TYPE_CHECKING:
    from serve.model.loader import ModelLoader
    from serve.store.quarantine import Rejection

_STOP_WAIT_S = 2.0
_MOST_SOURCES = 2000
# What decides how fast and where, but not whether a checkpoint is good.
_NOT_JUDGING = frozenset(
    {"workers", "poll_s", "settle_s", "keep", "watch", "commit", "commit_timeout_s"}
    | {"event_hook", "store", "checkpoints", "share", "max_batch_size", "max_batch_delay_ms", "unload"}
    | {"optimize", "torch_threads", "batch_check_share", "probation_s", "probation_requests", "probation_rule"}
    | {"drift_share", "record_share", "record_keep", "record_redact", "record_key"}
    | {"retry_spoiled", "promote", "abort", "timeout_s", "compare", "compare_share", "then"}
    | {"fleet", "fleet_secrets", "fleet_host", "fleet_cut_off", "fleet_lease_s", "fleet_hold_s", "fleet_evict_s"}
)
_OF_A_HOST = frozenset({"python_path", "verify_key"})  # what differs from host to host for good reasons


class ModelInstance:
    """One model, or one label of it, in one worker; `subscribers` get its events beside log, journal and hook."""

    def __init__(self, settings: Settings, *subscribers: Subscriber) -> None:
        self.settings = settings
        self.env_digest = read_env_digest(os.environ, Path(sys.prefix))
        self.journal = Journal(settings.store)
        # Most models have one label; their lines need not name it.
        label = {} if settings.full_name == settings.name else {"label": settings.label}
        facts: dict[str, object] = {"model": settings.name, **label}
        hooks = []
        if settings.event_hook:
            own_log = EventLog(facts, write_line)  # or a hook that fails would be called for that
            report = functools.partial(own_log.emit, "hook_failed")
            hooks.append(Webhook(settings.event_hook, lambda failure: report(reason=failure)).put)
        facts = {**facts, "env_digest": self.env_digest}
        self.log = EventLog(facts, write_line, self.journal.put, *hooks, *subscribers)
        self.shared_state = SharedState(settings.store / "word")
        self._gate = Gate(settings.store, settings.fleet_cut_off == REFUSE) if settings.commit == "fleet" else None
        gate = self._gate
        register = None if settings.commit == "worker" else self.shared_state
        self.slot = Slot(register) if gate is None else Slot(register, gate.is_open)
        start = os.environ.get(START_VARIABLE) or str(os.getppid())
        context = make_context(settings, self.slot, self.log, self.env_digest, lambda: self._judge, start)
        self.guard, self.ledger, self._context = context.guard, context.ledger, context
        self.operator_requests, self.policy = context.operator_requests, context.policy
        is_recorded = settings.record_share > 0 and settings.label != SHADOW
        self.recorder = Recorder(settings, self.log.emit) if is_recorded else None
        self.committer: FleetCommitter | None = None
        if gate is not None:
            self.committer = FleetCommitter(context, settings, gate, lambda: terms_of(settings, self.env_digest))
        self.reloader = Reloader(context, self.committer or make_committer(context), self._make_loader)
        self._thread: threading.Thread | None = None

    @property
    def is_reloading(self) -> bool:
        """Whether the reloader's thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_cut_off(self) -> bool:
        """Whether requests may not start for longer than a fence lasts."""
        return self._gate is not None and self._gate.is_out()

    @property
    def can_answer(self) -> bool:
        """Whether what the host has committed is live here, or nothing is."""
        return self.is_reloading and not self.reloader.is_behind

    def find_others(self) -> set[int]:
        """Return the other workers of the same server that answer, by pid."""
        try:
            rows = Membership(self.settings.store / "workers", self.shared_state).survey().alive.values()
        except (OSError, LedgerError):  # a full disk, or a store that is none: it is answered with the reason
            return set()
        return {row.pid for row in rows if row.live and row.parent == os.getppid() and row.pid != os.getpid()}

    def start(self) -> None:
        """Start the reloader's thread, once: in `post_worker_init`, as threads do not survive a fork."""
        if self._thread is None:
            self._thread = threading.Thread(target=self.reloader.run, name="reloader", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the reloader's thread before the interpreter; a load under way is waited for only a little."""
        if self._thread is not None:
            self.reloader.stop()
            self._thread.join(_STOP_WAIT_S)

    def reject(self, rejection: Rejection) -> None:
        """Put what was served into quarantine; its bytes stay for as long as the store keeps its generation."""
        self._context.reject(rejection, lambda: frozenset((rejection.sha256,)))

    @property
    def hanging(self) -> int:
        """How many trials of models were given up, and still run: only the end of the process ends them."""
        return sum(thread.name == GIVEN_UP for thread in threading.enumerate())

    @property
    def is_loading(self) -> bool:
        """Whether a thread still works on a model, after `stop` too: a load cannot be ended from outside."""
        return any(thread.name.startswith(PREPARATION) for thread in threading.enumerate())

    def _make_loader(self) -> ModelLoader:
        # Here and not above: this import brings torch, and only a worker may have it (forking after torch has used
        # threads hangs the child: pytorch#49555).
        try:
            from serve.model.loader import ModelLoader
        except ImportError as error:
            hint = "install torch and safetensors into the environment that runs gunicorn"
            raise ModelError(f"{error.name or 'a library'} cannot be imported: {error}", hint) from error
        return ModelLoader(self.settings, self.slot, self.log.emit)

    @functools.cached_property
    def _judge(self) -> str:
        # Asked by the reloader alone, and so after the loader has imported the model's module.
        return judge_of(self.settings, self.env_digest, sys.modules)


def judge_of(settings: Settings, env_digest: str | None, modules: Mapping[str, object]) -> str:
    """Digest what decides whether a checkpoint is good: the class and its source, the settings, the environment."""
    stated = {key: value for key, value in asdict(settings).items() if key not in _NOT_JUDGING}
    digest = hashlib.sha256(json.dumps([stated, env_digest], sort_keys=True, default=_as_json).encode())
    source = getattr(modules.get(settings.model.partition(":")[0]), "__file__", None)
    if source and Path(source).is_file():
        digest.update(Path(source).read_bytes())
        for path in _find_sources(settings, Path(source)):
            with contextlib.suppress(OSError):
                seen = path.stat()
                digest.update(repr((str(path), seen.st_size, seen.st_mtime_ns)).encode())
    return digest.hexdigest()


def terms_of(settings: Settings, env_digest: str | None) -> dict[str, str]:
    """Return what must be the same on all hosts of a fleet; asked after the model's module was imported."""
    stated = {key: value for key, value in asdict(settings).items() if key not in _NOT_JUDGING | _OF_A_HOST}
    source = Path(getattr(sys.modules.get(settings.model.partition(":")[0]), "__file__", None) or "")
    told = json.dumps(stated, sort_keys=True, default=_as_json).encode()
    content = source.read_bytes() if source.is_file() else b""
    digests = dict(zip(("model source", "settings"), (hashlib.sha256(one).hexdigest() for one in (content, told))))
    return {"protocol": PROTOCOL, "environment": env_digest or "none", **digests}


def _find_sources(settings: Settings, source: Path) -> list[Path]:
    """What the model's module may import that is its user's own: its package, or the modules beside it."""
    packages = settings.model.partition(":")[0].split(".")[:-1]
    if packages or source.name == "__init__.py":
        levels = len(packages) + (source.name == "__init__.py")
        found = source.parents[max(levels - 1, 0)].rglob("*.py")
    else:
        found = (path for directory in {source.parent, *settings.python_path} for path in directory.glob("*.py"))
    return sorted(itertools.islice(found, _MOST_SOURCES))


def _as_json(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
