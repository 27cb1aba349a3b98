"""From a proven checkpoint to a model that may go live: all gates, in their order.

format, signature and pickle policy → interface, from the header → memory → weights → finite → warm-up → golden
requests → `validate` → the form of the answers. A checkpoint that fails one is refused with that gate's code; none of
them touches the model that is live. It is read in one way, be it bare or in a bundle, under the module's names or a
wrapper's, with all names of tied weights or one of them.

Only workers import this module. What a model class may state is documented in `docs/reference/model-class.md`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.checkpoint.formats import SAFETENSORS
from serve.checkpoint.manifest import Manifest
from serve.checkpoint.sharded import read_interface
from serve.errors import CheckpointError, MemoryShortError, ServeError
from serve.model.contract import build, build_module, connect, import_class, lengthen
from serve.model.preload_gates import PreloadGates, ReadPlan, make_room, require_memory, warn_of_pickles
from serve.model.state_dicts import Architecture, fit, states_in, take_fitting
from serve.model.tensors import TiedWeights, attach, freeze, interface_of, is_same, plain_module, require_finite
from serve.model.torch_predictor import TorchPredictor, limit_this_thread, limit_threads
from serve.model.trial import Say, Trial
from serve.model.weights import PROGRAMS, read_state, torch_version, weaknesses

if TYPE_CHECKING:
    from serve.checkpoint.manifest import Stored
    from serve.model.slot import Slot
    from serve.settings.settings import Settings


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be swapped in. `warm_up_s`: seconds for answering the example and all that follows."""

    predictor: TorchPredictor
    format: str
    load_s: float
    warm_up_s: float


class ModelLoader:
    """Makes models from checkpoints in one worker; raises `ModelError` for a class or key that cannot be used."""

    def __init__(self, settings: Settings, slot: Slot | None = None, say: Say | None = None) -> None:
        self._settings, self._slot = settings, slot
        limit_threads(settings.torch_threads, settings.workers)
        self._class, self._gates = import_class(settings), PreloadGates(settings)
        self._say = say or (lambda event, **facts: None)  # the trainer's side has no log
        self._architecture: Architecture | None = None  # of the class with its arguments, which do not change
        version = torch_version()
        warn_of_pickles(settings.pickle, weaknesses(version), version, self._say)
        self._trial = Trial(settings, self._say)

    def load(self, stored: Stored, manifest: Manifest) -> Loaded:
        """Load, check and warm up one model. Raises `MemoryShortError`: it would not fit into memory."""
        self._trial.require_ended(stored.sha256)
        limit_this_thread()
        plan, slot = self._examine(stored, manifest), self._slot
        live = slot.live if slot is not None else None
        form = getattr(live.predictor, "interface", {}) if live is not None else {}
        if slot is None or live is None or self._settings.memory != "resource":
            return self._prepare(plan, form, is_alone=live is None)
        make_room(slot, live, self._settings.warm_up_timeout_s)
        try:
            return self._prepare(plan, form, is_alone=False)
        except BaseException as error:
            origin = getattr(live.predictor, "origin", None)
            if slot.live is None and origin is not None:  # what was unloaded to make room
                again = self._prepare(self._examine(*origin), {}, is_alone=True)
                slot.put_back(replace(live, predictor=again.predictor))
            if isinstance(error, ServeError):
                error.is_disruptive = True
            raise

    def preview(self, path: Path, manifest: Manifest) -> None:
        """Refuse what the first bytes of a checkpoint, or of an index, prove, before it is copied."""
        format, _ = self._gates.check(path, manifest, manifest.sha256 or "")
        self._require_fit(path, format)

    def compare(self, predictor: TorchPredictor) -> tuple[int, list[str]]:
        """Compare weights with their checkpoint, if it can be read; return how many tensors, and which differ."""
        limit_this_thread()
        assert predictor.origin is not None, "what was never loaded cannot be compared"
        plan, module = self._examine(*predictor.origin), plain_module(predictor.module)
        held = module.state_dict()
        if plan.format in PROGRAMS:
            state = PROGRAMS[plan.format](plan.stored.path, "cpu").state_dict()
        else:
            memory = TiedWeights(module)
            state, _ = _read_state(plan, Architecture(interface_of(held), memory.sources()), memory)
        common = [name for name in held if name in state]
        return len(common), [name for name in common if not is_same(held[name], state[name])]

    def find_shortage(self, stored: Stored, format: str) -> str:
        """Return, with `memory = "preserve"`, why a further model like this one would not fit beside what is loaded."""
        try:
            if self._settings.memory == "preserve":
                require_memory(self._settings, ReadPlan(stored, Manifest(), format, False), is_alone=False)
        except MemoryShortError as error:
            return error.message
        return ""

    def _examine(self, stored: Stored, manifest: Manifest) -> ReadPlan:
        """Pass the gates that need neither the weights nor memory."""
        format, may_unpickle = self._gates.check(stored.path, manifest, stored.sha256)
        self._require_fit(stored.path, format)
        return ReadPlan(stored, manifest, format, may_unpickle)

    def _require_fit(self, path: Path, format: str) -> None:
        """Refuse safetensors of another architecture by their header, once a module was built."""
        if format == SAFETENSORS and self._architecture is not None:
            fit(self._architecture, read_interface(path))

    def _prepare(self, plan: ReadPlan, form: Mapping[str, str], is_alone: bool) -> Loaded:
        """Pass the gates that need the model itself."""
        started_s = time.monotonic()
        require_memory(self._settings, plan, is_alone)
        built = build(self._settings, self._class)
        predictor = connect(self._settings, built, self._read(plan, built))
        loaded_s = time.monotonic()
        try:
            predictor = self._trial.run(plan, built, predictor, form, lengthen(self._settings, built))
        except CheckpointError:
            predictor.release()
            raise
        return Loaded(predictor, plan.format, loaded_s - started_s, time.monotonic() - loaded_s)

    def _read(self, plan: ReadPlan, built: Any) -> Any:
        """Make a module that holds the weights of a checkpoint, on the device."""
        if plan.format in PROGRAMS:
            module = PROGRAMS[plan.format](plan.stored.path, self._settings.device)
            require_finite(module.state_dict(), module)
            freeze(module)
            return module
        module = build_module(self._settings, built)
        memory = TiedWeights(module)
        architecture = Architecture(interface_of(module.state_dict()), memory.sources())
        if architecture != self._architecture:
            self._architecture = architecture
            # The header is enough to refuse another architecture before gigabytes of weights are read.
            self._require_fit(plan.stored.path, plan.format)
        state, took_off = _read_state(plan, architecture, memory)
        if took_off:
            self._say("unwrapped", sha256=plan.stored.sha256, took_off=list(took_off))
        require_finite(state, module)
        attach(module, state, self._settings.device, memory)
        return module


def _read_state(
    plan: ReadPlan, architecture: Architecture, memory: TiedWeights
) -> tuple[dict[str, Any], tuple[str, ...]]:
    found = read_state(plan.stored.path, plan.format, plan.may_unpickle)
    state, took_off = take_fitting(states_in(found), architecture)
    memory.complete(state, architecture.tensors)
    return state, took_off
