"""The blocks of docs/how-to/in-process.md, run as they are."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from serving import ROOT

pytestmark = pytest.mark.needs_torch
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/in-process.md").read_text("utf-8"), re.DOTALL)
MODEL = "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(16, 2)\n"
BEFORE = """
import pathlib, sys
sys.path.insert(0, ".")
from model import Net
import torch
from serve import publish
torch.save(Net().state_dict(), "w.pt")
publish(pathlib.Path("w.pt"), "checkpoints")
"""
ASK = {
    "flask": "found = app.test_client().post('/score', json={'rows': [[0.0] * 16]}).get_json()\n"
    "assert len(found['scores'][0]) == 2 and found['version']\n",
    "fastapi": "import asyncio\nfound = asyncio.run(score([[0.0] * 16]))\nassert len(found['scores'][0]) == 2\n",
    "batch": "assert len(scores) == 1000\n",
}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs(tmp_path, block):
    framework = next((word for word in ("flask", "fastapi") if f"from {word}" in block), None)
    if framework:
        pytest.importorskip(framework)
    check = ASK.get(framework or ("batch" if "scores =" in block else ""), "")
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "page.py").write_text(BEFORE + block + check)
    subprocess.run([sys.executable, "page.py"], cwd=tmp_path, check=True, timeout=300)


CELLS = [
    "import torch\n"
    "class Net(torch.nn.Linear):\n"
    "    example_inputs = [[0.0] * 16]\n"
    "    def __init__(self):\n"
    "        super().__init__(16, 2)\n",
    "from pathlib import Path\n"
    "from serve import HotModel, publish\n"
    "def save(value):\n"
    "    torch.save({name: 0 * t + value for name, t in Net().state_dict().items()}, 'w.pt')\n"
    "    publish(Path('w.pt'), 'checkpoints', f'{value}.safetensors')\n"
    "save(1)\n"
    "model = HotModel(Net, 'checkpoints', poll_s=0.05)\n"
    "assert model.predict([[1.0] * 16]) == [[17.0, 17.0]]\n",
    "import time\nsave(2)\nwhile model.predict([[1.0] * 16]) != [[34.0, 34.0]]:\n    time.sleep(0.05)\n",
]


def test_a_class_of_a_notebooks_cell_works_as_itself(tmp_path):
    """Cells run in `__main__`, and no file has their source."""
    script = f"for number, cell in enumerate({CELLS!r}): exec(compile(cell, f'<cell {{number}}>', 'exec'), globals())"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=120)
