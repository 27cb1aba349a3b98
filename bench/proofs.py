"""What the proofs in service cost: joined requests answered once more, versions of tensors, `verify --live`.

    python bench/proofs.py                       eight pairs of rounds for each

Two servers with two workers each, one with the proof and one without, are asked in turn in one run, and medians of the
pairs are compared: requests a second, and the processor time of the workers for each request. Where a machine's noise
is larger than what is looked for, the time of one look is printed by itself; joined requests are bounded by their rule.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import swap
from hup import send_until

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# Many tensors, for each of which a version is read at each look.
_MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.example_inputs = [[0.0] * 4]
        self.first = torch.nn.Linear(4, 2)
        self.ballast = torch.nn.Parameter(torch.zeros(size))
        for number in range(500):
            self.register_buffer(f"buffer{number}", torch.zeros(4), persistent=False)

    def forward(self, rows):
        return self.first(rows) + self.ballast[0]
"""
# The proof, the settings with it and without it, and whether an operator asks for a comparison meanwhile.
_CASES = {
    "joined requests once more": ({}, {"SERVE_BATCH_CHECK_SHARE": "0"}, False),
    "versions at each look": ({}, {"SERVE_POLL_S": "600"}, False),
    "verify --live every two seconds": ({}, {}, True),
}


def cpu_s(server: swap.Server) -> float:
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13] for child in children]
    return sum(int(tick) for pair in ticks for tick in pair) * _TICK_S


def ask(server: swap.Server, directory: Path, seconds: float, has_operator: bool) -> tuple[float, float]:
    """Requests a second, and microseconds of the workers' processor time for each."""
    is_over, results = multiprocessing.Event(), multiprocessing.Queue()
    client = multiprocessing.Process(target=send_until, args=(server.port, 8, 0.0, is_over, results))
    before_s, began_s = cpu_s(server), time.monotonic()
    client.start()
    while time.monotonic() - began_s < seconds:
        time.sleep(min(2.0, seconds / 2))
        if has_operator:
            argv = [sys.executable, "-m", "serve", "verify", "--live", "--store", str(directory / "store")]
            subprocess.run(argv, check=True, stdout=-1, cwd=swap.ROOT)
    is_over.set()
    answers, faults = results.get()
    client.join()
    assert not faults, faults[:3]
    took_s = time.monotonic() - began_s
    return len(answers) / took_s, 1e6 * (cpu_s(server) - before_s) / len(answers)


def compare(name: str, options) -> None:
    *settings, has_operator = _CASES[name]
    with tempfile.TemporaryDirectory() as root:
        places = [Path(root) / word for word in ("with", "without")]
        servers = []
        for place, stated in zip(places, settings):
            place.mkdir()
            os.environ.update(stated)
            servers.append(swap.Server(place, 1_000_000))
            for key in stated:
                del os.environ[key]
        pairs = []
        for number in range(options.rounds + 1):
            order = (0, 1) if number % 2 else (1, 0)
            found = {
                each: ask(servers[each], places[each], options.seconds, has_operator and not each) for each in order
            }
            pairs.append((found[0], found[1]))
        for server in servers:
            server.stop()
    pairs = pairs[1:]
    rate = statistics.median(one[0] / other[0] for one, other in pairs)
    cost = statistics.median(one[1] / other[1] for one, other in pairs)
    spread = sorted(round(100 * (one[1] / other[1] - 1), 1) for one, other in pairs)
    print(
        f"{name:34} requests/s {100 * (rate - 1):+.1f} %, processor time a request {100 * (cost - 1):+.1f} % {spread}"
    )


def look_s() -> float:
    """The time of one look at the versions of a module's tensors, which a worker has once in each `poll_s`."""
    sys.path.insert(0, str(swap.ROOT))
    from serve.model.request_state import Versions

    scope: dict = {}
    exec(_MODEL, scope)
    versions = Versions(scope["Net"](1_000_000))
    times_s = []
    for _ in range(200):
        began_s = time.thread_time()
        assert not versions.written()
        times_s.append(time.thread_time() - began_s)
    return statistics.median(times_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--case", choices=_CASES, action="append")
    options = parser.parse_args()
    swap.MODEL = _MODEL
    took_s = look_s()
    print(f"a look at the versions of 503 tensors: {1e3 * took_s:.2f} ms; once a second {100 * took_s:.2f} % of a core")
    for name in options.case or _CASES:
        compare(name, options)


if __name__ == "__main__":
    main()
