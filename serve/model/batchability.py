"""What is found out about a model by trying it: its outputs as arrays, and whether it can be batched.

A model can be batched when it answers the rows of one request in the company of another request's as it does alone. A
model that looks at all of its rows at once does not, and nothing but a trial tells.
"""

from __future__ import annotations

import json
from typing import Any

from serve.checkpoint.golden import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE
from serve.model.golden_check import differences
from serve.model.predictor import ArrayForm, Predictor


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


def find_batchable(predictor: Predictor, taken: Any, given: Any) -> bool:
    """Find out whether requests may share one run.

    Args:
        predictor: the model.
        taken: what its module takes for its example.
        given: what it gave for that alone.
    """
    try:
        rows = predictor.count_rows(taken)
        # Not the same rows twice: their mean, say, would be what it is for one of them.
        together = predictor.run(predictor.stack([taken, predictor.blank(taken)]))
        shared = predictor.give(predictor.split(together, [rows, rows])[0])
        alone = predictor.give(given)
    except Exception:  # whatever it is that it cannot do
        return False
    found = differences(as_json(alone), as_json(shared), RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE)
    return next(found, None) is None


def as_json(outputs: object) -> object:
    """Return outputs as a client reads them: tuples become lists.

    Args:
        outputs: what JSON can hold.
    """
    return json.loads(json.dumps(outputs))
