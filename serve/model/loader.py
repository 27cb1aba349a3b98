"""From a proven checkpoint to a model that may go live: all gates, in their order. Only workers import this module.

format, signature and pickle policy → interface, from the header → memory → weights → finite → warm-up → golden requests
→ `validate` → the form of the answers. A checkpoint that fails one is refused with that gate's code; none of them
touches the model that is live. It is read in one way, be it bare or in a bundle, under the module's names or a
wrapper's, with all names of tied weights or one of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from serve.checkpoint.formats import EXPORT, SAFETENSORS, TORCH, detect_format
from serve.checkpoint.manifest import Manifest, Stored
from serve.checkpoint.sharded import is_index, read_interface
from serve.checkpoint.signature import Verifier
from serve.errors import CheckpointError, MemoryShortError, ModelError, ServeError, SignatureError
from serve.model import tensors
from serve.model.contract import build, build_module, connect, import_class, lengthen
from serve.model.state_dicts import Architecture, fit, states_in, take_fitting
from serve.model.tensors import TiedWeights
from serve.model.torch_predictor import TorchPredictor, limit_this_thread, limit_threads
from serve.model.trial import Say, Trial
from serve.model.weights import PROGRAMS, can_map_pickles, read_state, torch_version, weaknesses
from serve.system import resources

if TYPE_CHECKING:
    from serve.model.slot import Generation, Slot
    from serve.settings.settings import Settings


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be swapped in. `warm_up_s`: seconds for answering the example and all that follows."""

    predictor: TorchPredictor
    format: str
    load_s: float
    warm_up_s: float


class ReadPlan(NamedTuple):
    """A checkpoint that has passed the gates before its weights are read, and how it may be read."""

    stored: Stored
    manifest: Manifest
    format: str
    may_unpickle: bool

    def read(self, architecture: Architecture, memory: TiedWeights) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Read the weights under the module's names, and what was taken off theirs."""
        found = read_state(self.stored.path, self.format, self.may_unpickle)
        state, took_off = take_fitting(states_in(found), architecture)
        memory.complete(state, architecture.tensors)
        return state, took_off


def decide_pickle(settings: Settings, format: str, sha256: str, is_signed: bool) -> bool:
    """Decide how a pickle may be read. Returns whether it may be unpickled in full, which runs its code."""
    if format not in (TORCH, EXPORT):
        return False
    may_unpickle = sha256 in settings.allowed_pickles or (settings.pickle == "trusted" and is_signed)
    if format == EXPORT and (settings.pickle == "refuse" or not may_unpickle):
        said = "the format: expected nothing that runs code when it is read, found a torch.export program"
        hint = 'list its sha256 in allowed_pickles, or sign it and set pickle = "trusted"'
        raise CheckpointError("pickle", said, hint)
    if settings.pickle == "refuse":
        hint = 'publish it with --convert, or set pickle = "weights_only"'
        raise CheckpointError("pickle", "the format: expected no pickle, found what torch.save writes", hint)
    return may_unpickle


def require_memory(settings: Settings, plan: ReadPlan, is_alone: bool) -> None:
    """Refuse what would not fit beside what is live; a worker that starts loads alone, while the others serve."""
    if settings.memory == "unchecked":
        return
    workers, size_bytes = 1 if is_alone else settings.workers, plan.stored.size_bytes
    is_shared = plan.format == SAFETENSORS or (plan.format == TORCH and can_map_pickles())
    needed = needed_bytes(size_bytes, workers, is_shared, tensors.can_assign())
    purpose = f"a checkpoint of {size_bytes} bytes beside what is live"
    hint = 'free some memory, serve with fewer workers, or set memory = "resource"'
    resources.require_memory(needed, resources.read_available(), purpose, hint)
    resources.require_memory(size_bytes * workers, tensors.read_device_memory(settings.device), purpose, hint)


def needed_bytes(size_bytes: int, workers: int, is_shared: bool, is_assigned: bool) -> int:
    """Estimate what loading takes at its peak on the host; `is_shared`: all workers map one copy of the file."""
    module_bytes = size_bytes * workers  # each worker's module first allocates its own, which mapped ones replace
    state_bytes = size_bytes if is_shared else size_bytes * workers
    return module_bytes if is_assigned and is_shared else module_bytes + state_bytes


def make_room(slot: Slot, live: Generation, timeout_s: float) -> None:
    """Unload what is live; where its requests do not end it is put back, and this raises `MemoryShortError`."""
    slot.vacate()
    until_s = time.monotonic() + timeout_s
    while True:
        for generation in slot.take_drained():
            generation.predictor.release()
        if not slot.is_draining:
            gc.collect()
            return
        if time.monotonic() > until_s:
            slot.put_back(live)
            asked = f"the requests of generation {live.provenance.generation} to end in {timeout_s:g} s"
            raise MemoryShortError(f"making room: expected {asked}, found some that still run")
        time.sleep(0.01)


class ModelLoader:
    """Makes models from checkpoints in one worker; raises `ModelError` for a class or key that cannot be used."""

    def __init__(self, settings: Settings, slot: Slot | None = None, say: Say | None = None) -> None:
        self._settings, self._slot = settings, slot
        limit_threads(settings.torch_threads, settings.workers)
        self._class = import_class(settings)
        try:
            self._verifier = Verifier(settings.verify_key) if settings.verify_key else None
        except SignatureError as error:
            raise ModelError(f"verify_key: {error.message}", hint=error.hint) from error
        self._say = say or (lambda event, **facts: None)  # the trainer's side has no log
        self._architecture: Architecture | None = None  # of the class with its arguments, which do not change
        if settings.pickle != "refuse" and (known := weaknesses(torch_version())):
            reason = f"weights_only is not a security boundary in torch {torch_version()}: {', '.join(known)}"
            self._say("warning", reason=reason, hint='publish safetensors, and set pickle = "refuse"')
        self._trial = Trial(settings, self._say)

    def load(self, stored: Stored, manifest: Manifest) -> Loaded:
        """Load, check and warm up one model. Raises `MemoryShortError`: it would not fit into memory."""
        self._trial.require_ended(stored.sha256)
        limit_this_thread()
        plan, slot = self._examine(stored, manifest), self._slot
        live = slot.live if slot is not None else None
        form = live.predictor.interface if live is not None else {}
        if slot is None or live is None or self._settings.memory != "resource":
            return self._prepare(plan, form, is_alone=live is None)
        make_room(slot, live, self._settings.warm_up_timeout_s)
        try:
            return self._prepare(plan, form, is_alone=False)
        except BaseException as error:
            if slot.live is None and live.predictor.origin is not None:  # what was unloaded to make room
                again = self._prepare(self._examine(*live.predictor.origin), {}, is_alone=True)
                slot.put_back(replace(live, predictor=again.predictor))
            if isinstance(error, ServeError):
                error.is_disruptive = True
            raise

    def preview(self, path: Path, manifest: Manifest) -> None:
        """Refuse what the first bytes of a checkpoint, or of an index, prove, before it is copied."""
        self._check(path, manifest, manifest.sha256 or "")

    def compare(self, predictor: TorchPredictor) -> tuple[int, list[str]]:
        """Compare weights with their checkpoint, if it can be read; return how many tensors, and which differ."""
        limit_this_thread()
        assert predictor.origin is not None, "what was never loaded cannot be compared"
        plan = self._examine(*predictor.origin)
        module = getattr(predictor.module, "_orig_mod", predictor.module)  # what `torch.compile` was given
        held = module.state_dict()
        if plan.format in PROGRAMS:
            state = PROGRAMS[plan.format](plan.stored.path, "cpu").state_dict()
        else:
            memory = TiedWeights(module)
            state, _ = plan.read(Architecture(tensors.interface_of(held), memory.sources()), memory)
        common = [name for name in held if name in state]
        return len(common), [name for name in common if not tensors.is_same(held[name], state[name])]

    def find_shortage(self, stored: Stored, format: str) -> str:
        """Return, with `memory = "preserve"`, why a further model like this one would not fit beside what is loaded."""
        try:
            if self._settings.memory == "preserve":
                require_memory(self._settings, ReadPlan(stored, Manifest(), format, False), is_alone=False)
        except MemoryShortError as error:
            return error.message
        return ""

    def _examine(self, stored: Stored, manifest: Manifest) -> ReadPlan:
        return ReadPlan(stored, manifest, *self._check(stored.path, manifest, stored.sha256))

    def _check(self, path: Path, manifest: Manifest, sha256: str) -> tuple[str, bool]:
        """Pass the gates that need neither weights nor memory; return the format, and whether its code may be run."""
        found = SAFETENSORS if is_index(path) else detect_format(path)
        if manifest.format not in (None, found):
            raise CheckpointError("format", f"the format: expected {manifest.format}, found {found}")
        wanted = (SAFETENSORS, TORCH) if self._settings.format == "auto" else (self._settings.format,)
        if found not in wanted:
            hint = f'set format = "{found}" to serve it'
            raise CheckpointError("format", f"the format: expected {' or '.join(wanted)}, found {found}", hint)
        if self._verifier is not None:
            self._verifier.require(manifest.stated)
            if manifest.sha256 != sha256:
                raise CheckpointError("signature", f"the signed sha256: expected {sha256}, found {manifest.sha256}")
        may_unpickle = decide_pickle(self._settings, found, sha256, self._verifier is not None)
        self._require_fit(path, found)
        return found, may_unpickle

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
            tensors.require_finite(module.state_dict(), module)
            tensors.freeze(module)
            return module
        module = build_module(self._settings, built)
        memory = TiedWeights(module)
        architecture = Architecture(tensors.interface_of(module.state_dict()), memory.sources())
        if architecture != self._architecture:
            self._architecture = architecture
            # The header is enough to refuse another architecture before gigabytes of weights are read.
            self._require_fit(plan.stored.path, plan.format)
        state, took_off = plan.read(architecture, memory)
        if took_off:
            self._say("unwrapped", sha256=plan.stored.sha256, took_off=list(took_off))
        tensors.require_finite(state, module)
        tensors.attach(module, state, self._settings.device, memory)
        return module
