"""The state dicts in what `torch.load` gave: bare, or in a bundle beside an optimizer's state, numbers and objects.

Trainers keep the weights under a key (`state_dict`, `model`, `module`, `net` …), some one inside the other, and some
keep the whole module. What looks like weights, for example the optimizer's averages, is passed over by its key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from serve.errors import CheckpointError
from serve.model.name_mapping import Architecture, Fit, fit
from serve.model.tensors import State, interface_of, is_extra, is_module, is_tensor

# Keys under which trainers keep tensors by name that are no weights.
_OTHERS = re.compile(r"optim|sched|scaler|rng|random|callback|loop|hparam|hyper|grad|metric|loss|histor", re.IGNORECASE)
_DEEPEST = 4
_PLAIN = (int, float, str, type(None))
_MOST_SHOWN = 5

States = dict[str, State]


def states_in(loaded: object, passed_over: re.Pattern[str] | None = _OTHERS) -> States:
    """Find the state dicts.

    Args:
        passed_over: keys of tensors by name that are no weights.

    Returns:
        Each by its keys, joined with dots; under the empty key where all of it is one.

    Raises:
        CheckpointError: there is none.
    """
    found = dict(_walk(loaded, (), passed_over))
    if not found:
        raise CheckpointError("content", _describe(loaded), hint="save module.state_dict(), alone or under a key")
    return found


def choose(states: States, key: str | None) -> tuple[str, State]:
    """Choose the one to be published.

    Args:
        key: which one, or `None` where there is only one.

    Raises:
        CheckpointError: it was not found, or there are several.
    """
    shown = " and ".join(f'"{name}"' for name in states)
    if key is None and len(states) > 1:
        hint = f"say which one with --key {next(iter(states))}"
        raise CheckpointError("content", f"expected one state dict, found them under {shown}", hint=hint)
    chosen = next(iter(states)) if key is None else key
    if chosen not in states:
        raise CheckpointError("content", f'--key: expected one of {shown}, found "{chosen}"')
    return chosen, states[chosen]


def take(states: States, wanted: Architecture) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Take the one that fits a module, under the module's names.

    Returns:
        The tensors, and what was taken off: a key, and what came before the names.

    Raises:
        CheckpointError: none fits, or several do.
    """
    fits: dict[str, Fit] = {}
    refusals = []
    for key, state in states.items():
        try:
            fits[key] = fit(wanted, interface_of(state))
        except CheckpointError as error:
            refusals.append(error)
    if not fits:
        raise refusals[0]
    if len(fits) > 1:
        shown = " and ".join(f'"{key}"' for key in fits)
        hint = f"publish it with --key {next(iter(fits))}"
        raise CheckpointError("content", f"expected one state dict that fits, found them under {shown}", hint=hint)
    ((key, found),) = fits.items()
    taken = _Taken({ours: states[key][theirs] for ours, theirs in found.names.items()})
    if not found.took_off:
        # Layers tell by it which version of themselves wrote their weights.
        taken._metadata = getattr(states[key], "_metadata", {})
    return taken, ((key,) if key else ()) + found.took_off


class _Taken(dict[str, Any]):
    """A state dict as torch has it: a mapping that carries the versions of the layers."""

    _metadata: Mapping[str, Any] = {}


def _walk(thing: object, keys: tuple[str, ...], passed_over: re.Pattern[str] | None) -> list[tuple[str, State]]:
    if is_module(thing):
        module: Any = thing
        thing = module.state_dict()
    if not isinstance(thing, Mapping) or len(keys) > _DEEPEST:
        return []
    if _is_state(thing):
        kept = {name: value for name, value in thing.items() if is_tensor(value) or is_extra(name)}
        # As it is where that can be: torch's own carries the versions of the layers.
        return [(".".join(keys), thing if len(kept) == len(thing) else kept)] if kept or not keys else []
    found = []
    for key, value in thing.items():
        if isinstance(key, str) and not (passed_over and passed_over.search(key)):
            found += _walk(value, (*keys, key), passed_over)
    return found


def _is_state(thing: Mapping[Any, object]) -> bool:
    if not thing:
        return True
    are_plain = all(
        isinstance(name, str) and (is_tensor(value) or is_extra(name) or isinstance(value, _PLAIN))
        for name, value in thing.items()
    )
    return are_plain and any(is_tensor(value) for value in thing.values())


def _describe(loaded: object) -> str:
    if not isinstance(loaded, Mapping):
        return f"expected a state dict, found {type(loaded).__name__}"
    strangers = sorted(str(name) for name, value in loaded.items() if not is_tensor(value))
    return f"expected only tensors in the state dict, found others: {strangers[:_MOST_SHOWN]}"
