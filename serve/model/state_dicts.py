"""The state dicts in what `torch.load` gave, and their names mapped to those of a module.

Trainers keep the weights under a key (`state_dict`, `model`, `module`, `net` …), some one inside the other, and some
keep the whole module. What looks like weights, for example the optimizer's averages, is passed over by its key.

What wrappers put into the names (DistributedDataParallel `module.`, `torch.compile` `_orig_mod.`, Lightning the name of
an attribute) is taken off where all that remains is exactly what the module has: names, types and shapes. Where two
ways would do, it is refused. `fit` touches no tensor, so a safetensors file is judged by its header."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve.checkpoint.formats import Interface, compare_interfaces, require_interface
from serve.errors import CheckpointError
from serve.model.tensors import State, VersionedState, interface_of, is_extra, is_module, is_tensor, versions_in

# Keys under which trainers keep tensors by name that are no weights.
_OTHERS = re.compile(r"optim|sched|scaler|rng|random|callback|loop|hparam|hyper|grad|metric|loss|histor", re.IGNORECASE)
_DEEPEST = 4
_PLAIN = (int, float, str, type(None))
_MOST_SHOWN = 5

States = dict[str, State]


def states_in(loaded: object, passed_over: re.Pattern[str] | None = _OTHERS) -> States:
    """Find the state dicts by their keys, joined with dots, but under none `passed_over`; raises `CheckpointError`."""
    found = dict(_walk(loaded, (), passed_over))
    if not found:
        raise CheckpointError("content", _describe(loaded), hint="save module.state_dict(), alone or under a key")
    return found


def choose(states: States, key: str | None) -> tuple[str, State]:
    """Choose the one to be published, by its key where there are several; raises `CheckpointError`."""
    shown = " and ".join(f'"{name}"' for name in states)
    if key is None and len(states) > 1:
        hint = f"say which one with --key {next(iter(states))}"
        raise CheckpointError("content", f"expected one state dict, found them under {shown}", hint=hint)
    chosen = next(iter(states)) if key is None else key
    if chosen not in states:
        raise CheckpointError("content", f'--key: expected one of {shown}, found "{chosen}"')
    return chosen, states[chosen]


def take_fitting(states: States, wanted: Architecture) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Take the one that fits a module, under its names; return also what was taken off. Raises `CheckpointError`."""
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
    tensors = {ours: states[key][theirs] for ours, theirs in found.names.items()}
    taken = VersionedState(tensors, _rename(versions_in(states[key]), found.names))
    return taken, ((key,) if key else ()) + found.took_off


def _rename(versions: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Give the versions of the layers under the module's names. `names`: the checkpoint's tensors by the module's."""
    found: dict[str, Any] = {}
    for name, original in names.items():
        ours, theirs = name.split(".")[:-1], original.split(".")[:-1]
        while ours or theirs:
            found.setdefault(".".join(ours), versions.get(".".join(theirs), {}))
            is_wrapper = bool(theirs) and theirs[-1] in WRAPPERS and ours[-1:] != theirs[-1:]
            ours, theirs = ours if is_wrapper else ours[:-1], theirs[:-1]
    return {"": versions.get("", {}), **found}


def _walk(thing: object, keys: tuple[str, ...], passed_over: re.Pattern[str] | None) -> list[tuple[str, State]]:
    if is_module(thing):
        module: Any = thing
        thing = module.state_dict()
    if not isinstance(thing, Mapping) or len(keys) > _DEEPEST:
        return []
    if _is_state(thing):
        kept = {name: value for name, value in thing.items() if is_tensor(value) or is_extra(name)}
        if len(kept) != len(thing):
            thing = VersionedState(kept, versions_in(thing))
        return [(".".join(keys), thing)] if kept or not keys else []
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


# Source: torch's DistributedDataParallel, DataParallel and AveragedModel; its compiled, sharded and checkpointing
# modules; Lightning Fabric.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
_COUNTERS = frozenset({"n_averaged"})  # what AveragedModel keeps beside the weights


@dataclass(frozen=True)
class Architecture:
    """What a module holds; `ties`: for each name that shares its memory, those from which its values can be read."""

    tensors: Interface
    ties: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """Which tensor of a checkpoint is which of the module: its names by the module's, without tied ones left out."""

    names: Mapping[str, str]
    took_off: tuple[str, ...] = ()


def fit(wanted: Architecture, found: Interface) -> Fit:
    """Find how a checkpoint fits a module. Raises `CheckpointError`: it does not fit, or fits in several ways."""
    plain = {name: name for name in found}
    if not _differences(wanted, plain, found):
        return Fit(plain)
    attempts = list(_attempts(wanted, found))
    fits = [(prefix, names) for prefix, names in attempts if not _differences(wanted, names, found)]
    certain = [names for _, names in fits if {_bare(name) for name in set(found) - set(names.values())} <= _COUNTERS]
    if len(fits) == 1 and certain:
        return Fit(certain[0], _taken_off(certain[0]))
    if fits:
        shown = " and ".join(f'"{prefix}"' for prefix, _ in fits)
        said = f"the checkpoint holds more than the module: expected its weights alone, found them under {shown}"
        hint = f'publish it with --strip-prefix "{fits[0][0]}" to leave out what has another prefix'
        raise CheckpointError("architecture", said, hint)
    closest = min([plain, *(names for _, names in attempts)], key=lambda names: len(_differences(wanted, names, found)))
    try:
        require_interface(wanted.tensors, _complete(wanted, closest, found))
    except CheckpointError as error:
        taken = " and ".join(f'"{piece}"' for piece in _taken_off(closest))
        after = f" (after taking off {taken})" if taken else ""
        raise CheckpointError(error.code, error.message + after, hint=error.hint) from error
    raise AssertionError("a checkpoint that differs was not refused")


def strip_wrappers(names: Sequence[str]) -> str:
    """Find what wrappers have put before all names."""
    prefix = ""
    rest = [name for name in names if name not in _COUNTERS]
    while rest:
        heads = {name.partition(".")[0] for name in rest}
        if len(heads) > 1 or not heads <= set(WRAPPERS) or not all("." in name for name in rest):
            break
        prefix += f"{heads.pop()}."
        rest = [name.partition(".")[2] for name in rest]
    return prefix


def _attempts(wanted: Architecture, found: Interface) -> Iterator[tuple[str, dict[str, str]]]:
    """Rename the checkpoint's tensors in each way that gives the module's first name."""
    ours = {_bare(name): name for name in wanted.tensors}
    kept = [name for name in found if _bare(name) in ours or _bare(name) not in _COUNTERS]
    theirs = {_bare(name): name for name in kept}
    if not ours or len(ours) != len(wanted.tensors) or len(theirs) != len(kept):
        theirs, ours = {name: name for name in kept}, {name: name for name in wanted.tensors}
    if not ours:
        return
    anchor = max(ours, key=lambda name: (name.count("."), len(name)))
    anchors = (anchor, *(_bare(name) for name in wanted.ties.get(ours[anchor], ())))
    heads = {name[: -len(end)] for name in theirs for end in anchors if name.endswith(end)}
    for head in sorted(head for head in heads if not head or head.endswith(".")):
        renamed = {name[len(head) :]: original for name, original in theirs.items() if name.startswith(head)}
        names = {ours.get(name, name): original for name, original in renamed.items()}
        yield head or strip_wrappers(list(names.values())), names


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS) or name


def _differences(wanted: Architecture, names: Mapping[str, str], found: Interface) -> list[str]:
    return compare_interfaces(wanted.tensors, _complete(wanted, names, found))


def _complete(wanted: Architecture, names: Mapping[str, str], found: Interface) -> Interface:
    """Rename what was found, and add the names that are tied to one that is there and is what the module has."""
    renamed = {name: found[theirs] for name, theirs in names.items()}
    right = {name for name, spec in renamed.items() if wanted.tensors.get(name) == spec}
    left_out = {name for name, sources in wanted.ties.items() if name not in renamed and right.intersection(sources)}
    return {**renamed, **{name: wanted.tensors[name] for name in left_out if name in wanted.tensors}}


def _taken_off(names: Mapping[str, str]) -> tuple[str, ...]:
    """Say what the checkpoint's names have more than the module's."""
    pieces = set()
    for ours, theirs in names.items():
        if theirs.endswith(ours) and theirs != ours:
            pieces.add(theirs[: -len(ours)])
        elif theirs != ours:
            pieces.update(f"{part}." for part in theirs.split(".") if part in WRAPPERS)
    return tuple(sorted(pieces))
