"""Makes a program meet what is rare: threads that change places at any moment, and a disk that is slow at random.

Read by every Python that has this directory in PYTHONPATH; CHANCE_SEED makes a run repeatable as far as threads are.
"""

import os
import random
import sys
import time

_roll = random.Random(os.environ.get("CHANCE_SEED"))
sys.setswitchinterval(10 ** _roll.uniform(-6, -2))
_slow = frozenset(("open", "os.listdir", "os.scandir", "os.rename", "os.mkdir", "os.remove", "os.link", "import"))
_share, _longest_s = _roll.choice([(0.0, 0.0), (0.02, 0.01), (0.2, 0.001)])


def _wait(event: str, _arguments: object) -> None:
    if event in _slow and _share and _roll.random() < _share:
        time.sleep(_roll.random() * _longest_s)


sys.addaudithook(_wait)
