"""How a proven checkpoint becomes a model that may go live: the one place where the gates stand, in their order.

format, signature and pickle policy → interface, from the header → memory → weights → finite → warm-up → golden
requests → `validate` → the form of the answers. A checkpoint that fails one is refused with that gate's code; none of
them touches the model that is live.

Only workers import this module. What a model class may say is told in `serve.model.contract`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable

from serve.checkpoint import sharded
from serve.checkpoint.formats import EXPORT, SAFETENSORS, TORCH, TORCHSCRIPT, read_safetensors_interface
from serve.checkpoint.manifest import Manifest
from serve.checkpoint.signature import Verifier
from serve.checkpoint.stored import Stored
from serve.errors import CheckpointError, ServeError, SignatureError, TrialError
from serve.model import contract, preload_gates, state_dicts, tensors, weights
from serve.model.compilation import optimize
from serve.model.examination import Examined, Examiner
from serve.model.interface import require_same_form
from serve.model.memory_admission import make_room
from serve.model.name_mapping import Architecture, fit
from serve.model.slot import Generation, Slot
from serve.model.tensor_versions import Versions
from serve.model.tied_weights import TiedWeights
from serve.model.torch_predictor import TorchPredictor
from serve.model.warm_up import Candidate, HangingError, Tried, warm_up
from serve.settings.settings import Settings
from serve.system import cpus
from serve.system.host_memory import read_available

Say = Callable[..., None]
# What brings its own code; the class only needs the rest.
_PROGRAMS = {TORCHSCRIPT: weights.read_script, EXPORT: weights.read_program}
# The longest trial of joined requests; an ordinary model needs less than a second.
_TRIAL_S = 20.0


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
        slot: holds what is live, with which a new model is compared.

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
        self._hanging: dict[str, threading.Thread] = {}
        self._architecture: Architecture | None = None  # of the class with its arguments, which do not change
        if say is not None:
            version = weights.torch_version()
            preload_gates.warn_of_pickles(settings.pickle, weights.weaknesses(version), version, say)

    def load(self, stored: Stored, manifest: Manifest) -> Loaded:
        """Load, check and warm up one model.

        Returns:
            The model, ready to answer.

        Raises:
            CheckpointError: the checkpoint is at fault.
            ModelError: the model class is at fault.
            MemoryShortError: it would not fit into memory.
            OSError: the store cannot be read.
        """
        self._require_ended(stored.sha256)
        tensors.limit_this_thread()
        plan, live = self._examine(stored, manifest), self._slot.live
        form = _form_of(live)
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
            OSError: it cannot be read.
        """
        is_index = sharded.is_index(path)
        format = SAFETENSORS if is_index else preload_gates.require_format(path, manifest, self._settings.format)
        if self._verifier is not None:
            self._verifier.require(manifest.stated)
        preload_gates.decide_pickle(self._settings, format, manifest.sha256 or "", self._verifier is not None)
        if format == SAFETENSORS and self._architecture is not None:
            fit(self._architecture, sharded.read_interface(path) if is_index else read_safetensors_interface(path))

    def compare(self, predictor: Any) -> tuple[int, list[str]]:
        """Compare the weights of a model in memory with its checkpoint, tensor by tensor.

        Returns:
            How many tensors were compared, and the names of those that differ.

        Raises:
            CheckpointError: the checkpoint cannot be read any more.
        """
        tensors.limit_this_thread()
        plan = self._examine(*predictor.origin)
        held = tensors.plain_module(predictor.module).state_dict()
        if plan.format in _PROGRAMS:
            state = _PROGRAMS[plan.format](plan.stored.path, "cpu").state_dict()
        else:
            found = weights.read_state(plan.stored.path, plan.format, plan.may_unpickle)
            memory = TiedWeights(predictor.module)
            architecture = Architecture(tensors.interface_of(held), memory.sources())
            state, _ = state_dicts.take(state_dicts.states_in(found), architecture)
            memory.complete(state, architecture.tensors)
        common = [name for name in held if name in state]
        return len(common), [name for name in common if not tensors.is_same(held[name], state[name])]

    def _examine(self, stored: Stored, manifest: Manifest) -> _Plan:
        """Pass the gates that need neither the weights nor memory."""
        format = preload_gates.require_format(stored.path, manifest, self._settings.format)
        if self._verifier is not None:
            preload_gates.require_signature(self._verifier, stored, manifest)
        is_signed = self._verifier is not None
        may_unpickle = preload_gates.decide_pickle(self._settings, format, stored.sha256, is_signed)
        if format == SAFETENSORS and self._architecture is not None:
            fit(self._architecture, read_safetensors_interface(stored.path))
        return _Plan(stored, manifest, format, may_unpickle)

    def _prepare(self, plan: _Plan, form: Mapping[str, str], is_alone: bool) -> Loaded:
        """Pass the gates that need the model itself."""
        started_s = time.monotonic()
        self._require_memory(plan, is_alone)
        built = contract.build(self._settings, self._class)
        module = self._read(plan, built)
        predictor = contract.connect(self._settings, built, module)
        loaded_s = time.monotonic()
        try:
            tried = self._try(plan.manifest, built, predictor)
            self._require_form(plan.manifest, form, tried.form)
        except CheckpointError as error:
            if isinstance(error, HangingError):
                self._hanging[plan.stored.sha256] = error.thread
            predictor.release()
            raise
        predictor = replace(predictor, outputs=tried.outputs, interface=tried.form, origin=(plan.stored, plan.manifest))
        if tried.examined is not None:
            predictor = self._conclude(predictor, tried.examined)
        predictor = self._optimize(predictor, built.example_inputs, plan.format)
        return Loaded(predictor, plan.format, loaded_s - started_s, time.monotonic() - loaded_s)

    def _require_ended(self, sha256: str) -> None:
        """Try nothing again whose last trial still runs: each would hold one more model for ever."""
        thread = self._hanging.pop(sha256, None)
        if thread is not None and thread.is_alive():
            self._hanging[sha256] = thread
            reason = "an earlier warm-up of it still runs in this worker"
            raise TrialError("warm-up", reason, hint="restart the worker if it never ends")

    def _try(self, manifest: Manifest, built: Any, predictor: TorchPredictor) -> Tried[Examined]:
        settings, example = self._settings, built.example_inputs
        known = [golden.inputs for golden in manifest.golden]
        versions = Versions(predictor.module)
        patience_s = min(settings.warm_up_timeout_s / 2, _TRIAL_S)
        examiner = Examiner(built, predictor, example, known, versions, settings.max_batch_size, patience_s)
        validate = getattr(built, "validate", None)
        longer = contract.lengthen(settings, built)
        candidate = Candidate(predictor, example, manifest.golden, validate, longer, examiner.examine)
        tried = warm_up(candidate, settings.warm_up_sizes, settings.warm_up_timeout_s)
        if tried.examined is not None and tried.examined.written and settings.stateful == "refuse":
            raise CheckpointError(
                "stateful",
                f"{', '.join(tried.examined.written)}: expected weights that stay as they were published, "
                "found them changed by answering",
                hint='set stateful = "allow" where that is meant',
            )
        return tried

    def _conclude(self, predictor: TorchPredictor, examined: Examined) -> TorchPredictor:
        """Take over what was found out, and say what its author may not know."""
        say = self._say or (lambda event, **facts: None)
        if examined.alone_because:
            say("not_batched", reason=examined.alone_because)
        if examined.kept:
            say("state_kept", attributes=examined.kept)
        # Not one for both: a conversion takes place in the event loop, which must not wait for a run.
        turns = (threading.RLock(), threading.RLock()) if examined.kept else predictor.turns
        return replace(predictor, can_batch=not examined.alone_because, turns=turns, versions=examined.versions)

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
        if plan.format in _PROGRAMS:
            module = _PROGRAMS[plan.format](plan.stored.path, self._settings.device)
            tensors.require_finite(module.state_dict(), module)
            tensors.freeze(module)
            return module
        module = contract.build_module(self._settings, built)
        memory = TiedWeights(module)
        architecture = Architecture(tensors.interface_of(module.state_dict()), memory.sources())
        if plan.format == SAFETENSORS and architecture != self._architecture:
            # The header is enough to refuse another architecture before gigabytes of weights are read.
            fit(architecture, read_safetensors_interface(plan.stored.path))
        self._architecture = architecture
        found = weights.read_state(plan.stored.path, plan.format, plan.may_unpickle)
        state, took_off = state_dicts.take(state_dicts.states_in(found), architecture)
        if took_off and self._say is not None:
            self._say("unwrapped", sha256=plan.stored.sha256, took_off=list(took_off))
        memory.complete(state, architecture.tensors)
        tensors.require_finite(state, module)
        tensors.attach(module, state, self._settings.device, memory)
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
