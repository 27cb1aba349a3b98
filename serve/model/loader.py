"""From a proven checkpoint to a model that may go live: all gates, in their order.

format, signature and pickle policy → interface, from the header → memory → weights → finite → warm-up → golden
requests → `validate` → the form of the answers. A checkpoint that fails one is refused with that gate's code; none of
them touches the model that is live.

Only workers import this module. What a model class may say is described in `serve.model.contract`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serve.checkpoint.manifest import Manifest
from serve.checkpoint.stored import Stored
from serve.errors import CheckpointError, ServeError
from serve.model.contract import build, connect, import_class
from serve.model.memory_admission import make_room, require_memory
from serve.model.module_reader import ModuleReader
from serve.model.preload_gates import PreloadGates, ReadPlan
from serve.model.slot import Generation, Slot
from serve.model.tensors import limit_this_thread, limit_threads
from serve.model.torch_predictor import TorchPredictor
from serve.model.trial import Say, Trial
from serve.settings.settings import Settings


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be swapped in.

    Args:
        load_s: seconds for building the module and attaching the weights.
        warm_up_s: seconds for answering the example and all that follows.
    """

    predictor: TorchPredictor
    format: str
    load_s: float
    warm_up_s: float


class ModelLoader:
    """Makes models from checkpoints, in one worker.

    Raises:
        ModelError: the class cannot be imported, or a key cannot be used.
    """

    def __init__(self, settings: Settings, slot: Slot | None = None, say: Say | None = None) -> None:
        self._settings = settings
        limit_threads(settings.torch_threads, settings.workers)
        self._class = import_class(settings)
        self._gates = PreloadGates(settings)
        self._slot = slot or Slot()
        say = say or _ignore
        self._reader, self._trial = ModuleReader(settings, say), Trial(settings, say)

    def load(self, stored: Stored, manifest: Manifest) -> Loaded:
        """Load, check and warm up one model.

        Raises:
            CheckpointError: the checkpoint is at fault.
            ModelError: the model class is at fault.
            MemoryShortError: it would not fit into memory.
            OSError: the store cannot be read.
        """
        self._trial.require_ended(stored.sha256)
        limit_this_thread()
        plan, live = self._examine(stored, manifest), self._slot.live
        form = getattr(live.predictor, "interface", {}) if live is not None else {}
        if live is None or self._settings.memory != "resource":
            return self._prepare(plan, form, is_alone=live is None)
        make_room(self._slot, live, self._settings.warm_up_timeout_s)
        try:
            return self._prepare(plan, form, is_alone=False)
        except BaseException as error:
            self._bring_back(live)
            if isinstance(error, ServeError):
                error.is_disruptive = True
            raise

    def preview(self, path: Path, manifest: Manifest) -> None:
        """Refuse what the first bytes of a checkpoint prove, before it is copied.

        Args:
            path: the checkpoint at the watched place; the index of a sharded one.

        Raises:
            CheckpointError: the checkpoint is at fault.
        """
        format, _ = self._gates.check(path, manifest, manifest.sha256 or "")
        self._reader.require_fit(path, format)

    def compare(self, predictor: Any) -> tuple[int, list[str]]:
        """Compare the weights of a model in memory with its checkpoint, tensor by tensor.

        Returns:
            How many tensors were compared, and the names of those that differ.

        Raises:
            CheckpointError: the checkpoint cannot be read any more.
        """
        limit_this_thread()
        return self._reader.compare(self._examine(*predictor.origin), predictor.module)

    def _examine(self, stored: Stored, manifest: Manifest) -> ReadPlan:
        """Pass the gates that need neither the weights nor memory."""
        format, may_unpickle = self._gates.check(stored.path, manifest, stored.sha256)
        self._reader.require_fit(stored.path, format)
        return ReadPlan(stored, manifest, format, may_unpickle)

    def _prepare(self, plan: ReadPlan, form: Mapping[str, str], is_alone: bool) -> Loaded:
        """Pass the gates that need the model itself."""
        started_s = time.monotonic()
        require_memory(self._settings, plan, is_alone)
        built = build(self._settings, self._class)
        predictor = connect(self._settings, built, self._reader.read(plan, built))
        loaded_s = time.monotonic()
        try:
            predictor = self._trial.run(plan, built, predictor, form)
        except CheckpointError:
            predictor.release()
            raise
        return Loaded(predictor, plan.format, loaded_s - started_s, time.monotonic() - loaded_s)

    def _bring_back(self, live: Generation) -> None:
        """Make a generation live again that was unloaded to make room."""
        origin = getattr(live.predictor, "origin", None)
        if self._slot.live is None and origin is not None:
            again = self._prepare(self._examine(*origin), {}, is_alone=True)
            self._slot.put_back(replace(live, predictor=again.predictor))


def _ignore(event: str, **facts: object) -> None:
    """Say nothing: the trainer's side has no log."""
