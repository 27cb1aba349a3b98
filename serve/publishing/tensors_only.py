"""On the trainer's side: the tensors of a bundle that holds objects, too, without running any code of theirs.

A pickle names what it wants called. Here each name leads either to what builds tensors, or to a class that takes
everything and does nothing: `find_class` is the only way from a pickle to code.
"""

from __future__ import annotations

import inspect
import pickle
import types
from pathlib import Path
from typing import IO, Any

import torch

# What `torch.Tensor.__reduce_ex__` names, from torch 1.12 to 2.13.
_BUILDERS = (
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
    "_rebuild_parameter",
    "_rebuild_sparse_tensor",
    "_rebuild_qtensor",
)
_ALLOWED = {("collections", "OrderedDict"), ("torch", "Size"), ("torch", "device")}
_ALLOWED |= {("torch._utils", name) for name in _BUILDERS}
_ALLOWED |= {("torch.serialization", "_get_layout"), ("torch.storage", "UntypedStorage")}


class LeftOut:
    """Stands for an object of any class beside the weights; the class is not even imported."""

    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def take(self, *anything: object) -> None:
        """Pass over what a pickle wants stored in it."""

    __setstate__ = __setitem__ = append = extend = add = take


def read(path: Path) -> tuple[Any, list[str]]:
    """Read what torch.save wrote.

    Returns:
        What was saved, with a `LeftOut` for each object that is neither plain nor a tensor, and the names of what was
        left out.

    Raises:
        Exception: of torch, pickle and others: it cannot be read so.
    """
    left_out: set[str] = set()

    class Unpickler(pickle.Unpickler):  # its C implementation, which stores through the methods of what it built
        def find_class(self, module: str, name: str) -> Any:
            is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
            if is_type or (module, name) in _ALLOWED:
                return super().find_class(module, name)
            left_out.add(f"{module}.{name}")
            return LeftOut

    def load(file: IO[bytes], **options: Any) -> Any:
        return Unpickler(file, **options).load()

    careful = types.SimpleNamespace(Unpickler=Unpickler, load=load, __name__="pickle")
    options = {"weights_only": False} if "weights_only" in inspect.signature(torch.load).parameters else {}
    found = torch.load(str(path), map_location="cpu", pickle_module=careful, **options)
    return found, sorted(left_out)
