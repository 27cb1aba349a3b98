"""Inputs and outputs of a model, as the Open Inference Protocol describes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serve.codec import datatypes
from serve.codec.oip_request import TensorSpec
from serve.model.predictor import TEXT, ArrayForm


def specs_of(forms: Sequence[ArrayForm]) -> list[TensorSpec]:
    """Describe inputs or outputs as the protocol does.

    Returns:
        Those that the protocol has a datatype for.
    """
    specs = []
    for form in forms:
        dtype = np.dtype(object if form.dtype == TEXT else form.dtype)
        shape = tuple(-1 if length is None else length for length in form.shape)
        if dtype.kind != "c":
            specs.append(TensorSpec(form.name, datatypes.name_of(dtype), shape))
    return specs
