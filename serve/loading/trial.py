"""What is found out about a model by its example: its outputs as arrays. Whether it can be batched is a matter of its
own (`serve.loading.company`)."""

from __future__ import annotations

import json
from typing import Any

from serve.loading.predictor import ArrayForm, Predictor


def describe_outputs(predictor: Predictor, given: Any) -> tuple[ArrayForm, ...]:
    """Find the outputs as arrays.

    Args:
        predictor: the model.
        given: what its module gave for its example.

    Returns:
        Their forms, with any number of rows; none where the outputs are no arrays.
    """
    try:
        arrays = predictor.give_arrays(given)
    except ValueError:
        return ()
    return tuple(
        ArrayForm(name, "text" if array.dtype == object else array.dtype.name, (None, *array.shape[1:]))
        for name, array in arrays.items()
    )


def as_json(outputs: object) -> object:
    """Return outputs as a client reads them: tuples become lists.

    Args:
        outputs: what JSON can hold.
    """
    return json.loads(json.dumps(outputs))
