"""The page about kinds of models: every class on it is built, answers its example, and is batched or not as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not in this interpreter; run these in the created environment")

from serve.model import contract, tensors  # noqa: E402 - they bring torch
from serve.model.request_state import Versions  # noqa: E402
from serve.model.trial import Examiner  # noqa: E402
from serve.settings.settings import load_settings  # noqa: E402

PAGE = Path(__file__).parents[3] / "docs/how-to/model-kinds.md"
BLOCKS = dict(re.findall(r"^## ([^\n]+)\n```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
RUN_ALONE = {"Packed sequences", "Rows that see each other"}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("heading", [heading for heading in BLOCKS if heading != "Programs"])
def test_a_kind_is_served_as_the_page_says(tmp_path, heading):
    defined: dict = {}
    exec(BLOCKS[heading], defined)
    settings = load_settings({"SERVE_MODEL": "m:M", "SERVE_CHECKPOINTS": "ck"}, tmp_path).find()
    built = contract.build(settings, defined["Model"])
    module = contract.build_module(settings, built)
    tensors.freeze(module)
    predictor = contract.connect(settings, built, module)
    found = Examiner(built, predictor, built.example_inputs, (), Versions(module), 32, 60.0).examine()
    assert bool(found.alone_because) == (heading in RUN_ALONE), found.alone_because
    assert (found.kept, found.written) == ((), ())
    longer = contract.lengthen(settings, built)
    if longer is not None:
        predictor.predict(longer)
    if hasattr(built, "validate"):
        built.validate(predictor)


def test_the_page_has_its_kinds():
    assert len(BLOCKS) == 8
    assert set(BLOCKS) >= RUN_ALONE
