"""State that requests leave: on the objects of a model class, and in parameters and buffers. Only workers import this.

Requests overlap in a worker: one is converted while another runs. What a class keeps between its steps is then another
client's, which shows in what hangs on its objects and when two requests are mixed. Writes to weights are found by the
version that torch counts for each tensor: every write in place raises it, in inference mode too; asking for all of them
takes about a microsecond for each tensor."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy
import torch

from serve.model.answers import as_json
from serve.model.batch_independence import first_difference

if TYPE_CHECKING:
    from serve.model.torch_predictor import TorchPredictor

_DEPTH, _PARTS, _MOST_PARTS, _ELEMENTS = 4, 64, 2000, 1024
_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)
_OPAQUE = (ModuleType, FunctionType, BuiltinFunctionType, MethodType, type, torch.nn.Module)
# Of a torch module: its weights are looked after by `Versions`, its submodules on their own.
_TORCHS = frozenset(("_parameters", "_buffers", "_modules"))
Mark = tuple[object, object]


def snapshot(servable: object, module: Any) -> dict[str, Mark]:
    """Note all that hangs on a model object, its module, class and file, by name; values are held, so that ids stay."""
    return {
        f"{place}.{name}": (value, _Marker().mark(value, _DEPTH))
        for place, owner in _owners(servable, module)
        for name, value in _attributes(owner)
    }


def changed(before: Mapping[str, Mark], after: Mapping[str, Mark]) -> list[str]:
    """Name what differs between two snapshots."""
    return sorted(name for name in {**before, **after} if before.get(name, _NONE)[1] != after.get(name, _NONE)[1])


_NONE: Mark = (None, "missing")


def _owners(servable: object, module: Any) -> Iterator[tuple[str, object]]:
    yield "self", servable
    for name, part in module.named_modules():
        if part is not servable:
            yield f"module.{name}" if name else "module", part
    for parent in type(servable).__mro__:
        if parent.__module__.partition(".")[0] not in ("builtins", "torch", "abc", "typing"):
            yield parent.__name__, parent
    file = sys.modules.get(type(servable).__module__)
    if file is not None:
        yield file.__name__, file


def _attributes(owner: object) -> Iterator[tuple[str, object]]:
    held = getattr(owner, "__dict__", {})
    caches = {name: held["_buffers"].get(name) for name in held.get("_non_persistent_buffers_set", ())}
    for name, value in [*held.items(), *caches.items()]:
        if name not in _TORCHS and not (name.startswith("__") and name.endswith("__")):
            yield name, value


class Untouched:
    """What hangs on a model's objects before its first request, to ask it anew as if nothing had been asked. Classes
    and files are left alone: what is live uses them, too."""

    def __init__(self, servable: object, module: Any) -> None:
        self._of, self._marks = (servable, module), snapshot(servable, module)
        self._values = {
            f"{place}.{name}": _copied(value) for place, owner in self._objects() for name, value in _attributes(owner)
        }

    def find_dependence(self, predictor: TorchPredictor, one: object, other: object) -> tuple[str, list[str]]:
        """Tell how an answer differs from the one of a model that was never asked before, and by what it kept. Only
        plain data is set back: what was opened or built in between stays."""
        owners, now = dict(self._objects()), {}
        for name in changed(self._marks, snapshot(*self._of)):
            place, _, key = name.rpartition(".")
            value = getattr(owners.get(place), key, _NONE)
            if value is None or isinstance(value, (str, int, float, torch.Tensor, *_CONTAINERS)):
                now[name] = owners[place], key, value
        if not now:
            return "", []
        answers = []
        try:
            for several in ((other,), (other,), (one, other)):
                _set({name: (*found[:2], _copied(self._values.get(name, _NONE))) for name, found in now.items()})
                answers.append([_answer(predictor, inputs) for inputs in several][-1])
        finally:
            _set(now)
        first, again, later = answers
        return ("" if first_difference(first, again) else first_difference(first, later)), list(now)

    def _objects(self) -> Iterator[tuple[str, object]]:
        return ((place, owner) for place, owner in _owners(*self._of) if not isinstance(owner, (type, ModuleType)))


def _set(values: Mapping[str, tuple[Any, str, object]]) -> None:
    for owner, key, value in values.values():
        if value is not _NONE:
            setattr(owner, key, value)
        else:
            vars(owner).pop(key, None)


def _copied(value: Any) -> Any:
    """Copy what is small, and may be changed in place."""
    if type(value) in _CONTAINERS and len(value) <= _PARTS:
        return value.copy()
    return value.clone() if isinstance(value, torch.Tensor) and value.numel() <= _ELEMENTS else value


class _Marker:
    """Makes what is equal as long as a value is the same and was not changed; looks at no more than so many parts."""

    def __init__(self) -> None:
        self._left = _MOST_PARTS

    def mark(self, value: Any, depth: int) -> object:
        """Mark one value, and its parts down to a depth; what cannot be looked into, by which object it is."""
        self._left -= 1
        try:
            return self._look_into(value, depth)
        except Exception:  # a lazy tensor has no shape, and reading an object may run the user's code
            return id(value)

    def _look_into(self, value: Any, depth: int) -> object:
        if isinstance(value, torch.Tensor):
            version = None if value.is_inference() else value._version
            return id(value), version, elements_of(value, _ELEMENTS)
        if isinstance(value, numpy.ndarray):
            return id(value), value.tobytes() if value.size <= _ELEMENTS else None
        if value is None or isinstance(value, (str, bytes, int, float, complex)):
            return value if value == value else "nan"
        if isinstance(value, _OPAQUE) or not depth or self._left < 0:
            return id(value)
        if isinstance(value, Mapping):
            return len(value), self._parts((part for pair in list(value.items()) for part in pair), depth)
        if isinstance(value, (list, tuple, set, frozenset, deque)):
            return len(value), self._parts(list(value), depth)
        return id(value), self._parts((part for pair in _attributes(value) for part in pair), depth)

    def _parts(self, values: Iterable[object], depth: int) -> tuple[object, ...]:
        return tuple(self.mark(value, depth - 1) for value in itertools.islice(values, _PARTS))


def find_mixing(predictor: TorchPredictor, one: object, other: object) -> str:
    """Tell how an answer changes by another request's company, in every way in which a worker lets two overlap."""
    alone = {}
    for name, inputs in (("other", other), ("one", one)):
        _, alone[name], again = (_answer(predictor, inputs) for _ in range(3))
        if first_difference(alone[name], again):
            return ""  # it answers by chance or by the time; company has nothing to do with it
    for run, give in itertools.product(("one", "other"), repeat=2):
        prepared = {"one": predictor.prepare(one), "other": predictor.prepare(other)}
        raw = {name: _run(predictor, prepared[name]) for name in sorted(prepared, key=run.__ne__)}
        for name in sorted(raw, key=give.__ne__):
            difference = first_difference(alone[name], as_json(predictor.postprocess(raw[name])))
            if difference:
                return difference
    return first_difference(alone["one"], _answer(predictor, one))


def sets_seed(predictor: TorchPredictor, inputs: object) -> bool:
    """Whether answering sets the seed of all chance in the process: two at once would draw from each other's."""
    states = []
    for _ in range(2):
        torch.rand(1)  # no seed of ours, which what is live would draw from
        predictor.predict(inputs)
        states.append(torch.random.get_rng_state())
    return bool(torch.equal(*states))


def _answer(predictor: TorchPredictor, inputs: object) -> object:
    return as_json(predictor.postprocess(_run(predictor, predictor.prepare(inputs))))


def _run(predictor: TorchPredictor, prepared: Any) -> Any:
    # What draws numbers by chance answers equal requests alike from equal seeds.
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        torch.manual_seed(0)
        return predictor.run(prepared)


_COUNTER_ELEMENTS = 16  # what goes round the counter, as a write through `.data`, still shows in tensors this small
# Up to this size, a buffer that was written is compared: torch before 2 writes the same numbers into some that it
# only reads.
_COPIED_ELEMENTS = 65_536


class _Mark(NamedTuple):
    """What a tensor was; held, so that no other takes its place in memory."""

    tensor: Any
    version: int | None
    elements: str
    copy: Any = None

    def differs(self, now: _Mark, may_not_move: bool) -> bool:
        if _address(self.tensor) != _address(now.tensor):
            return may_not_move
        if self.elements != now.elements or self.version == now.version:
            return self.elements != now.elements
        copy, tensor = self.copy, now.tensor
        with contextlib.suppress(Exception):  # one that cannot be compared counts as changed
            return copy is None or not bool(((copy == tensor) | ((copy != copy) & (tensor != tensor))).all())
        return True


class Versions:
    """The tensors of a module as they were when this was made."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._published = set(module.state_dict())
        buffers = dict(module.named_buffers())
        self._marks = {
            name: mark._replace(copy=_copy_of(mark.tensor) if name in buffers else None)
            for name, mark in _marks_of(module).items()
        }

    def written(self) -> list[str]:
        """Name published tensors written or replaced since, and others written: a table that grows is replaced."""
        return self._differing(self._published)

    def touched(self) -> list[str]:
        """Name the tensors that were written or replaced since, whatever they are."""
        return self._differing(set(self._marks))

    def _differing(self, may_not_move: set[str]) -> list[str]:
        now = {name: mark for name, mark in _marks_of(self._module).items() if name in self._marks}
        return sorted(name for name, mark in now.items() if self._marks[name].differs(mark, name in may_not_move))


def _address(tensor: Any) -> int:
    try:
        return int(tensor.data_ptr())
    except Exception:  # sparse and lazy ones, and some of subclasses, have no memory of their own
        return id(tensor)


def _marks_of(module: Any) -> dict[str, _Mark]:
    return {name: _mark(tensor) for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def _mark(tensor: Any) -> _Mark:
    version, elements = None, ""
    with contextlib.suppress(Exception):  # of a subclass that answers nothing; reading other devices takes long
        if tensor.device.type == "cpu":
            elements = elements_of(tensor, _COUNTER_ELEMENTS)
    with contextlib.suppress(Exception):  # one that was made in inference mode counts none
        version = tensor._version
    return _Mark(tensor, version, elements)


def _copy_of(tensor: Any) -> Any:
    with contextlib.suppress(Exception):  # as above
        if tensor.device.type == "cpu" and str(tensor.layout) == "torch.strided" and not tensor.is_quantized:
            return tensor.detach().clone() if tensor.numel() <= _COPIED_ELEMENTS else None
    return None


def elements_of(tensor: Any, most: int) -> str:
    """Return the elements of a small tensor as text, in which NaN is itself; nothing for one that cannot be read."""
    with contextlib.suppress(Exception):  # a lazy one has no elements yet, and Python no type for some numbers
        if str(tensor.layout) == "torch.strided" and not tensor.is_quantized and tensor.numel() <= most:
            return str(tensor.detach().tolist())
    return ""
