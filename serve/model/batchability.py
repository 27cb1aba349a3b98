"""What is found out about a model by its example: its outputs as arrays. Whether it can be batched is a matter of its
own (`serve.model.batch_independence`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from serve.model.predictor import ArrayForm, Predictor


def describe_outputs(predictor: Predictor, raw: Sequence[Any]) -> tuple[ArrayForm, ...]:
    """Find the outputs as arrays.

    Args:
        raw: what its module gave for its example, and for one of other lengths where there is one.

    Returns:
        Their forms, with any number of rows, and of what the lengths decide; none where the outputs are no arrays.
    """
    try:
        arrays, *others = [predictor.postprocess_arrays(each) for each in raw]
    except ValueError:
        return ()
    return tuple(
        ArrayForm(
            name, "text" if array.dtype == object else array.dtype.name, _shape([array, *(o[name] for o in others)])
        )
        for name, array in arrays.items()
    )


def _shape(arrays: Sequence[Any]) -> tuple[int | None, ...]:
    lengths = zip(*(array.shape[1:] for array in arrays))
    return (None, *(each[0] if len(set(each)) == 1 else None for each in lengths))


def as_json(outputs: object) -> object:
    """Return outputs as a client reads them: tuples become lists."""
    return json.loads(json.dumps(outputs))
