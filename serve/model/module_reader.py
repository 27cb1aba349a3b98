"""Modules with the weights of a checkpoint, and the comparison of the two.

A checkpoint is read in one way, be it bare or in a bundle, under the module's names or a wrapper's, with all names of
tied weights or one of them. Only workers import this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

from serve.checkpoint import sharded
from serve.checkpoint.formats import EXPORT, SAFETENSORS, TORCHSCRIPT, read_safetensors_interface
from serve.model import contract, preload_gates, state_dicts, tensors, weights
from serve.model.name_mapping import Architecture, fit
from serve.model.preload_gates import ReadPlan
from serve.model.tied_weights import TiedWeights
from serve.settings.settings import Settings

# What brings its own code; the class only needs the rest.
_PROGRAMS = {TORCHSCRIPT: weights.read_script, EXPORT: weights.read_program}


class ModuleReader:
    """Reads checkpoints for the modules of one model class."""

    def __init__(self, settings: Settings, say: Callable[..., None]) -> None:
        self._settings, self._say = settings, say
        self._architecture: Architecture | None = None  # of the class with its arguments, which do not change
        version = weights.torch_version()
        preload_gates.warn_of_pickles(settings.pickle, weights.weaknesses(version), version, say)

    def require_fit(self, path: Path, format: str) -> None:
        """Refuse safetensors of another architecture by their header, once a module was built."""
        if format == SAFETENSORS and self._architecture is not None:
            is_index = sharded.is_index(path)
            fit(self._architecture, sharded.read_interface(path) if is_index else read_safetensors_interface(path))

    def read(self, plan: ReadPlan, built: Any) -> Any:
        """Make a module that holds the weights of a checkpoint, on the device.

        Raises:
            CheckpointError: the checkpoint is at fault.
        """
        if plan.format in _PROGRAMS:
            module = _PROGRAMS[plan.format](plan.stored.path, self._settings.device)
            tensors.require_finite(module.state_dict(), module)
            tensors.freeze(module)
            return module
        module = contract.build_module(self._settings, built)
        memory = TiedWeights(module)
        architecture = Architecture(tensors.interface_of(module.state_dict()), memory.sources())
        if architecture != self._architecture:
            self._architecture = architecture
            # The header is enough to refuse another architecture before gigabytes of weights are read.
            self.require_fit(plan.stored.path, plan.format)
        state, took_off = _read_state(plan, architecture, memory)
        if took_off:
            self._say("unwrapped", sha256=plan.stored.sha256, took_off=list(took_off))
        tensors.require_finite(state, module)
        tensors.attach(module, state, self._settings.device, memory)
        return module

    def compare(self, plan: ReadPlan, module: Any) -> tuple[int, list[str]]:
        """Compare a module with its checkpoint; return how many tensors were compared, and which differ."""
        module = tensors.plain_module(module)
        held = module.state_dict()
        if plan.format in _PROGRAMS:
            state = _PROGRAMS[plan.format](plan.stored.path, "cpu").state_dict()
        else:
            memory = TiedWeights(module)
            state, _ = _read_state(plan, Architecture(tensors.interface_of(held), memory.sources()), memory)
        common = [name for name in held if name in state]
        return len(common), [name for name in common if not tensors.is_same(held[name], state[name])]


def _read_state(
    plan: ReadPlan, architecture: Architecture, memory: TiedWeights
) -> tuple[dict[str, Any], tuple[str, ...]]:
    found = weights.read_state(plan.stored.path, plan.format, plan.may_unpickle)
    state, took_off = state_dicts.take(state_dicts.states_in(found), architecture)
    memory.complete(state, architecture.tensors)
    return state, took_off
