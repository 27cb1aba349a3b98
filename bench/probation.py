"""What a probation and the sketches of drift cost the requests, and what good swaps under load come to.

    python bench/probation.py --rounds 5 --swaps 1000

Two servers with the same model, one without probation and one whose generation is on probation all the time, are asked
in turn by the same client at saturation; the medians of the rounds are compared. So it is done with and without
sketches. Then good checkpoints are swapped
under load, with threads that keep the machine busy, and those that were taken back are counted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
from pathlib import Path

from swap import Server, send_for


def cpu_s(server: Server) -> float:
    """Return the time that the workers have had on the processor."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    stats = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split() for child in children]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def measure(server: Server, seconds: float) -> tuple[float, float]:
    """Return the requests a second that were answered, and those for each second on the processor."""
    results: multiprocessing.Queue = multiprocessing.Queue()
    process = multiprocessing.Process(target=send_for, args=(server.port, seconds, results))
    before_s = cpu_s(server)
    process.start()
    answers, failures = results.get()
    process.join()
    if failures:
        raise RuntimeError(failures[0])
    return len(answers) / seconds, len(answers) / (cpu_s(server) - before_s)


# The variable, and its values for "off" and "on".
COSTS = {"probation": ("SERVE_PROBATION_S", "0", "100000"), "sketches": ("SERVE_DRIFT_SHARE", "0", "0.01")}


def compare(directory: Path, what: str, rounds: int, seconds: float) -> tuple[float, float]:
    """Return the throughput with it as a share of that without: by the clock, and by time on the processor."""
    variable, off, on = COSTS[what]
    rates: dict[str, list[tuple[float, float]]] = {"off": [], "on": []}
    servers = {}
    for name, value in (("off", off), ("on", on)):
        (directory / name).mkdir()
        servers[name] = Server(directory / name, 1000, {variable: value})
        servers[name].publish()
        servers[name].wait_live(2)
    for server in servers.values():
        measure(server, seconds)
    for number in range(rounds):
        for name in ("off", "on") if number % 2 else ("on", "off"):
            rates[name].append(measure(servers[name], seconds))
    for server in servers.values():
        server.process.terminate()
        server.process.wait()
    print(json.dumps({name: [[round(rate) for rate in pair] for pair in found] for name, found in rates.items()}))
    by_clock, by_cpu = (
        statistics.median(on[place] / off[place] for on, off in zip(rates["on"], rates["off"])) for place in (0, 1)
    )
    return by_clock, by_cpu


def count_returns(directory: Path, swaps: int) -> tuple[int, int]:
    """Swap good checkpoints under load; return how many were live, and how many were taken back."""
    server = Server(directory, 1000, {"SERVE_PROBATION_S": "0.5"})
    stopping = threading.Event()

    def send() -> None:
        while not stopping.is_set():
            measure(server, 2.0)

    def keep_busy() -> None:
        while not stopping.is_set():
            sum(range(20000))

    threads = [threading.Thread(target=work) for work in (send, keep_busy)]
    for thread in threads:
        thread.start()
    try:
        for generation in range(2, swaps + 2):
            server.publish()
            server.wait_live(generation)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    swapped, returned = server.events("swapped"), server.events("returned")
    server.process.terminate()
    server.process.wait()
    return len({event["generation"] for event in swapped}) - 1, len(returned)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--costs", nargs="*", default=list(COSTS), choices=list(COSTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--swaps", type=int, default=1000)
    options = parser.parse_args()
    for what in options.costs if options.rounds else ():
        with tempfile.TemporaryDirectory() as name:
            by_clock, by_cpu = compare(Path(name), what, options.rounds, options.seconds)
        print(f"throughput with {what}: {by_clock:.3f} of that without; for each second of CPU {by_cpu:.3f}")
    if options.swaps:
        with tempfile.TemporaryDirectory() as name:
            live, returned = count_returns(Path(name), options.swaps)
        print(f"good swaps under load: {live}; taken back: {returned}")


if __name__ == "__main__":
    main()
