"""The weights are in memory once for all workers, and swaps leave nothing behind."""

from __future__ import annotations

import re
import sys
import threading
import time
from pathlib import Path

import numpy
import pytest
from serving import wait_until

from serve.publishing.publish import publish

pytestmark = pytest.mark.needs_torch

ROWS, COLUMNS = 10000, 10000
WEIGHTS_BYTES = 4 * ROWS * COLUMNS
WORKERS, SETTLED = 4, 1


def pss_bytes(pids):
    """Proportional set size: a page that n processes map counts 1/n in each, so sums count every page once."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return 1024 * sum(int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1)) for text in texts)


def held_bytes(pids):
    """What processes hold: their own memory, and each checkpoint that any of them maps once.

    Unlike a sum of PSS it is right while they unmap: the share of those that are read last grows as the others let go.
    """
    own, mapped = 0, {}
    for pid in pids:
        own += 1024 * int(
            re.search(r"^Anonymous:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M).group(1)
        )
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, _, _, device, inode, *path = line.split(None, 5)
            if path and "/sha256/" in path[0]:
                first, last = (int(address, 16) for address in span.split("-"))
                mapped[device, inode] = max(last - first, mapped.get((device, inode), 0))
    return own + sum(mapped.values())


def slope(values):
    """Least-squares slope of equidistant values."""
    return float(numpy.polyfit(range(len(values)), values, 1)[0])


class Peak(threading.Thread):
    """The most that was held at once."""

    def __init__(self, pids):
        super().__init__()
        self.pids, self.highest, self.is_stopping = pids, 0, False

    def run(self):
        while not self.is_stopping:
            self.highest = max(self.highest, held_bytes(self.pids))
            time.sleep(0.05)


def can_share():
    import inspect

    import torch

    return "assign" in inspect.signature(torch.nn.Module.load_state_dict).parameters


@pytest.mark.parametrize(
    # Few points are noisy (measured: 40 MB up and down), so the short form allows a larger slope of the host's sum.
    ("swaps", "largest_slope"),
    [
        # torch of Python 3.9 has a copy of the weights in each worker, which takes a minute more.
        pytest.param(5, 0.05, marks=() if sys.version_info >= (3, 10) else pytest.mark.nightly),
        pytest.param(40, 0.005, marks=pytest.mark.nightly),
    ],
)
def test_memory_is_flat_and_shared(start_server, trainer, swaps, largest_slope):
    def publish_next(seed):
        weight = numpy.full((COLUMNS, ROWS), seed % 7, "float32")
        path = trainer.write("big.safetensors", {"layer.weight": weight, "layer.bias": numpy.zeros(COLUMNS, "float32")})
        return publish(path, trainer.directory, f"big_{seed % 2}.safetensors", f"v{seed}")

    server = start_server(model="affine:Big", workers=WORKERS, keep=1, probation_s=0, is_fresh=True)
    wait_until(lambda: len(server.events("watching")) == WORKERS, "all workers ready", lambda: server.text)
    pids = server.workers()
    empty_bytes, own_bytes = pss_bytes(pids), held_bytes(pids)
    publish_next(0)
    server.wait_live(1, WORKERS)
    copies = 1 if can_share() else WORKERS
    loaded_bytes = pss_bytes(pids) - empty_bytes
    if can_share():
        extra_bytes = (loaded_bytes - WEIGHTS_BYTES) / (WORKERS - 1)
        assert extra_bytes < 0.25 * WEIGHTS_BYTES, f"{extra_bytes / 1e6:.0f} MB for each extra worker"
    after, peak = [], Peak(pids)
    peak.start()
    try:
        for seed in range(1, swaps + 1):
            publish_next(seed)
            server.wait_live(seed + 1, WORKERS)
            server.wait_for_events("retired", WORKERS, generation=seed)
            after.append(pss_bytes(pids))
    finally:
        peak.is_stopping = True
        peak.join()
    settled = after[SETTLED:]
    print(f"empty {empty_bytes / 1e6:.0f} MB, one model {loaded_bytes / 1e6:.0f} MB, peak {peak.highest / 1e6:.0f} MB")
    print("after each swap, MB:", [round(value / 1e6) for value in after])
    assert server.workers() == pids
    # The noise grows with what is held; one generation that is never freed in one worker is still far above it.
    assert slope(settled) < largest_slope * copies * WEIGHTS_BYTES
    assert max(settled) - empty_bytes < (copies + 0.25 * WORKERS) * WEIGHTS_BYTES
    # At most one more copy on the host where the weights are shared; elsewhere one for each worker, and the store's
    # file once, which they copy from.
    mapped = 0 if can_share() else 1
    assert peak.highest - own_bytes < (2 * copies + mapped + 0.25 * WORKERS) * WEIGHTS_BYTES
