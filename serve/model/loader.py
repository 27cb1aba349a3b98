"""How a proven checkpoint becomes a model that may go live: the one place where the gates stand, in their order.

format, signature and pickle policy → interface, from the header → memory → weights → finite → warm-up → golden
requests → `validate` → the form of the answers. A checkpoint that fails one is refused with that gate's code; none of
them touches the model that is live.

Only workers import this module. What a model class may say is told in `serve.model.contract`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Callable

from serve.checkpoint.formats import (
    SAFETENSORS,
    TORCH,
    TORCHSCRIPT,
    Interface,
    read_safetensors_interface,
    require_interface,
)
from serve.checkpoint.manifest import Manifest
from serve.checkpoint.signature import Verifier
from serve.checkpoint.stored import Stored
from serve.errors import CheckpointError, SignatureError
from serve.model import contract, preload_gates, tensors, weights
from serve.model.compilation import optimize
from serve.model.interface import require_same_form
from serve.model.memory_admission import make_room
from serve.model.slot import Generation, Slot
from serve.model.torch_predictor import TorchPredictor
from serve.model.warm_up import Candidate, warm_up
from serve.settings.settings import Settings
from serve.system import cpus
from serve.system.host_memory import read_available

Say = Callable[..., None]


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be swapped in.

    Args:
        predictor: answers requests.
        format: of the checkpoint.
        load_s: seconds for building the module and attaching the weights.
        warm_up_s: seconds for answering the example and all that follows.
    """

    predictor: TorchPredictor
    format: str
    load_s: float
    warm_up_s: float


@dataclass(frozen=True)
class _Plan:
    """A checkpoint that has passed the gates which need no memory."""

    stored: Stored
    manifest: Manifest
    format: str
    may_unpickle: bool


class ModelLoader:
    """Makes models from checkpoints, in one worker.

    Args:
        settings: how to serve.
        slot: holds what is live, with which a new model is compared.
        say: writes a line to the log.

    Raises:
        ModelError: the class cannot be imported, or a key cannot be used.
    """

    def __init__(self, settings: Settings, slot: Slot | None = None, say: Say | None = None) -> None:
        self._settings = settings
        threads = cpus.threads_of_an_operation(cpus.count_cores(), settings.workers, os.environ)
        tensors.limit_threads(settings.torch_threads or threads)
        self._say = say
        self._class = contract.import_class(settings)
        try:
            self._verifier = Verifier(settings.verify_key) if settings.verify_key else None
        except SignatureError as error:
            raise preload_gates.unusable_key(error) from error
        self._slot = slot or Slot()
        self._tensors: Interface | None = None  # of the class with its arguments, which do not change
        if say is not None:
            version = weights.torch_version()
            preload_gates.warn_of_pickles(settings.pickle, weights.weaknesses(version), version, say)

    def load(self, stored: Stored, manifest: Manifest) -> Loaded:
        """Load, check and warm up one model.

        Args:
            stored: the proven checkpoint.
            manifest: what its marker states.

        Returns:
            The model, ready to answer.

        Raises:
            CheckpointError: the checkpoint is at fault.
            ModelError: the model class is at fault.
            MemoryShortError: it would not fit into memory.
            OSError: the store cannot be read.
        """
        plan, live = self._examine(stored, manifest), self._slot.live
        form = _form_of(live)
        if live is None or self._settings.memory != "resource":
            return self._prepare(plan, form, is_alone=live is None)
        make_room(self._slot, live, self._settings.warm_up_timeout_s)
        try:
            return self._prepare(plan, form, is_alone=False)
        except BaseException:
            self._bring_back(live)
            raise

    def _examine(self, stored: Stored, manifest: Manifest) -> _Plan:
        """Pass the gates that need neither the weights nor memory."""
        format = preload_gates.require_format(stored.path, manifest, self._settings.format)
        if self._verifier is not None:
            preload_gates.require_signature(self._verifier, stored, manifest)
        is_signed = self._verifier is not None
        may_unpickle = preload_gates.decide_pickle(self._settings, format, stored.sha256, is_signed)
        if format == SAFETENSORS and self._tensors is not None:
            require_interface(self._tensors, read_safetensors_interface(stored.path))
        return _Plan(stored, manifest, format, may_unpickle)

    def _prepare(self, plan: _Plan, form: Mapping[str, str], is_alone: bool) -> Loaded:
        """Pass the gates that need the model itself."""
        started_s = time.monotonic()
        self._require_memory(plan, is_alone)
        built = contract.build(self._settings, self._class)
        module = self._read(plan, built)
        predictor = contract.connect(self._settings, built, module)
        loaded_s = time.monotonic()
        candidate = Candidate(
            predictor,
            built.example_inputs,
            plan.manifest.golden,
            getattr(built, "validate", None),
            getattr(built, "batchable", True),
        )
        try:
            tried = warm_up(candidate, self._settings.warm_up_sizes, self._settings.warm_up_timeout_s)
            self._require_form(plan.manifest, form, tried.form)
        except CheckpointError:
            predictor.release()
            raise
        predictor = replace(
            predictor,
            outputs=tried.outputs,
            can_batch=tried.can_batch,
            interface=tried.form,
            origin=(plan.stored, plan.manifest),
        )
        predictor = self._optimize(predictor, built.example_inputs, plan.format)
        return Loaded(predictor, plan.format, loaded_s - started_s, time.monotonic() - loaded_s)

    def _optimize(self, predictor: TorchPredictor, example: object, format: str) -> TorchPredictor:
        """Take a quicker form of the module, if that is wanted and there is one."""
        how = self._settings.optimize
        if how == "off" or (how == "script" and format == TORCHSCRIPT):
            return predictor
        rows = (1, 2, self._settings.max_batch_size) if predictor.can_batch else (1,)
        verdict = optimize(predictor, example, how, rows, self._settings.warm_up_timeout_s)
        if self._say is not None:
            said = {"reason": verdict.reason} if verdict.reason else {"gain": round(verdict.gain, 2)}
            self._say("not_optimized" if verdict.reason else "optimized", how=how, **said)
        return verdict.predictor

    def _require_memory(self, plan: _Plan, is_alone: bool) -> None:
        if self._settings.memory == "unchecked":
            return
        # A worker that boots does so while its siblings serve; otherwise all of them load at the same time.
        workers = 1 if is_alone else self._settings.workers
        size_bytes = plan.stored.size_bytes
        is_shared = plan.format == SAFETENSORS or (plan.format == TORCH and weights.can_map_pickles())
        needed = preload_gates.needed_bytes(size_bytes, workers, is_shared, tensors.can_assign())
        preload_gates.require_memory(needed, read_available(), plan.stored)
        preload_gates.require_memory(
            size_bytes * workers, tensors.read_device_memory(self._settings.device), plan.stored
        )

    def _read(self, plan: _Plan, built: Any) -> Any:
        if plan.format == TORCHSCRIPT:
            module = weights.read_script(plan.stored.path, self._settings.device)
            tensors.require_finite(module.state_dict(), module)
            tensors.freeze(module)
            return module
        module = contract.build_module(self._settings, built)
        examined, expected = self._tensors, tensors.interface_of(module.state_dict())
        self._tensors = expected
        if plan.format == SAFETENSORS and expected != examined:
            # The header is enough to refuse another architecture before gigabytes of weights are read.
            require_interface(expected, read_safetensors_interface(plan.stored.path))
        state = weights.read_state(plan.stored.path, plan.format, plan.may_unpickle)
        require_interface(expected, tensors.interface_of(state))
        tensors.require_finite(state, module)
        tensors.attach(module, state, self._settings.device)
        return module

    def _require_form(self, manifest: Manifest, live: Mapping[str, str], found: Mapping[str, str]) -> None:
        require_same_form(manifest.interface, found, "its manifest states")
        if self._settings.changed_interface == "refuse":
            require_same_form(live, found, "the model that is live")

    def _bring_back(self, live: Generation) -> None:
        """Make a generation live again that was unloaded to make room."""
        origin = getattr(live.predictor, "origin", None)
        if self._slot.live is None and origin is not None:
            again = self._prepare(self._examine(*origin), {}, is_alone=True)
            self._slot.put_back(replace(live, predictor=again.predictor))


def _form_of(live: Generation | None) -> Mapping[str, str]:
    form: Mapping[str, str] = getattr(live.predictor, "interface", {}) if live is not None else {}
    return form
