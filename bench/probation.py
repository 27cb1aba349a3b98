"""What a probation and the sketches of drift cost the requests, and what good swaps under load come to.

    python bench/probation.py --rounds 5 --swaps 1000

Two servers with the same model, one without probation and one whose generation is on probation all the time, are asked
in turn by the same client at saturation; the medians of the rounds are compared. So it is done with and without
sketches. At half load the p99 with a shadow is compared with that without one. Then good checkpoints are swapped
under load, with threads that keep the machine busy, and those that were taken back are counted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

from swap import REQUEST, Server, send_for


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


def ask_paced(port: int, rate: float, seconds: float, results: multiprocessing.Queue) -> None:
    """Ask at a rate over eight connections, and report how long each request took, from when it was due."""
    took_s: list[float] = []
    began_s, every_s = time.monotonic(), 8 / rate

    def ask(place: int) -> None:
        due_s, connection = began_s + every_s * place / 8, socket.create_connection(("127.0.0.1", port))
        while due_s < began_s + seconds:
            time.sleep(max(0.0, due_s - time.monotonic()))
            connection.sendall(REQUEST)
            connection.recv(65536)
            took_s.append(time.monotonic() - due_s)
            due_s += every_s

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(took_s)


def p99_with_shadow(directory: Path, rounds: int, seconds: float) -> float:
    """Return the p99 at half load with a shadow that is asked all requests, as a share of that without one."""
    servers = {}
    for name in ("off", "on"):
        place = directory / name
        place.mkdir()
        (place / "shadow").mkdir()
        table = f'[models.bench]\ncheckpoints = "{place / "checkpoints"}"\nstore = "{place / "store"}"\n'
        if name == "on":
            table += f'[models.bench.shadow]\ncheckpoints = "{place / "shadow"}"\nshare = 1.0\n'
        (place / "serve.toml").write_text('model = "bench_model:Net"\n' + table)
        absent = dict.fromkeys(("SERVE_MODEL", "SERVE_CHECKPOINTS", "SERVE_STORE"))
        servers[name] = Server(place, 1000, {"SERVE_CONFIG": str(place / "serve.toml"), **absent})
        if name == "on":
            for path in (servers[name].paths[0][0], servers[name].paths[0][0].with_suffix(".safetensors.done")):
                (place / "shadow" / path.name).write_bytes(path.read_bytes())
    half = min(measure(server, seconds)[0] for server in servers.values()) / 2
    found: dict[str, list[float]] = {"off": [], "on": []}
    for number in range(rounds):
        for name in ("off", "on") if number % 2 else ("on", "off"):
            results: multiprocessing.Queue = multiprocessing.Queue()
            process = multiprocessing.Process(target=ask_paced, args=(servers[name].port, half, seconds, results))
            process.start()
            found[name].append(statistics.quantiles(results.get(), n=100)[98])
            process.join()
    for server in servers.values():
        server.stop()
    print(
        json.dumps(
            {"half_load": round(half), **{name: [round(1e3 * one, 2) for one in ms] for name, ms in found.items()}}
        )
    )
    return statistics.median(found["on"]) / statistics.median(found["off"])


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
    parser.add_argument("--shadow", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--swaps", type=int, default=1000)
    options = parser.parse_args()
    for what in options.costs if options.rounds else ():
        with tempfile.TemporaryDirectory() as name:
            by_clock, by_cpu = compare(Path(name), what, options.rounds, options.seconds)
        print(f"throughput with {what}: {by_clock:.3f} of that without; for each second of CPU {by_cpu:.3f}")
    if options.rounds and options.shadow:
        with tempfile.TemporaryDirectory() as name:
            print(f"p99 at half load with a shadow: {p99_with_shadow(Path(name), options.rounds, options.seconds):.3f}")
    if options.swaps:
        with tempfile.TemporaryDirectory() as name:
            live, returned = count_returns(Path(name), options.swaps)
        print(f"good swaps under load: {live}; taken back: {returned}")


if __name__ == "__main__":
    main()
