"""Whether the installed torch reads pickles safely; before 1.13 it does not, and the server refuses them by default."""

import inspect

import pytest
import torch

READS_SAFELY = "weights_only" in inspect.signature(torch.load).parameters
needs_safe_pickles = pytest.mark.skipif(
    not READS_SAFELY, reason="this torch cannot read a pickle without running its code"
)
