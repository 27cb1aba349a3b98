"""What the model alone does: processes that call `model(x)` and nothing else, one row at a time.

The measure of every server for a model that costs more than its requests do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def rate(model: str, weights: Path, processes: int, seconds: float) -> float:
    """Measure how many rows a second so many processes compute together."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "bare.py"), model, str(weights), str(seconds)]
    running = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(float(each.communicate()[0]) for each in running)


def main() -> None:
    import models
    import torch

    name, weights, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    module, row = models.load(name, weights), torch.randn(1, *models.SHAPES[name])
    with torch.inference_mode():
        for _ in range(3):
            module(row)
        count, began_s = 0, time.monotonic()
        while time.monotonic() < began_s + seconds:
            module(row)
            count += 1
    print(count / (time.monotonic() - began_s))


if __name__ == "__main__":
    main()
