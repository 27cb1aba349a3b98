"""What is found out about a model by trying it: its outputs as arrays, and whether it can be batched.

A model can be batched when it answers the rows of one request in the company of another request's as it does alone. A
model that looks at all of its rows at once does not, and nothing but a trial tells.
"""

from __future__ import annotations

import json

from serve.golden import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE, differences
from serve.predictor import ArrayForm, Predictor


def describe_outputs(predictor: Predictor, example: object) -> tuple[ArrayForm, ...]:
    """Find the outputs as arrays.

    Args:
        predictor: the model.
        example: inputs as a request has them.

    Returns:
        Their forms, with any number of rows; none where the outputs are no arrays.
    """
    try:
        arrays = predictor.give_arrays(predictor.run(predictor.take(example)))
    except ValueError:
        return ()
    return tuple(
        ArrayForm(name, "text" if array.dtype == object else array.dtype.name, (None, *array.shape[1:]))
        for name, array in arrays.items()
    )


def find_batchable(predictor: Predictor, example: object) -> bool:
    """Find out whether requests may share one run.

    Args:
        predictor: the model.
        example: inputs as a request has them.
    """
    try:
        taken = predictor.take(example)
        rows = predictor.count_rows(taken)
        # Not the same rows twice: their mean, say, would be what it is for one of them.
        given = predictor.run(predictor.stack([taken, predictor.blank(taken)]))
        shared = predictor.give(predictor.split(given, [rows, rows])[0])
        alone = predictor.give(predictor.run(taken))
    except Exception:  # whatever it is that it cannot do
        return False
    found = differences(_as_json(alone), _as_json(shared), RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE)
    return next(found, None) is None


def _as_json(outputs: object) -> object:
    return json.loads(json.dumps(outputs))
