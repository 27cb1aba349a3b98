"""What a swap costs the requests that flow meanwhile.

    python bench/swap.py --output bench/results/swap

Real gunicorn with two workers at saturation; a process of its own sends requests over eight kept connections. Rounds
without and with swaps alternate in one run, so that what the machine does besides hits both; medians of the rounds are
compared. "Publishing" is the writing of a marker here: the checkpoint's bytes lie there already, as the trainer's own
copying and hashing is not the server's cost.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy
import safetensors.numpy
from machine import undisturbed

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = 8
MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.example_inputs = [[0.0] * 4]
        self.first = torch.nn.utils.skip_init(torch.nn.Linear, 4, 2)
        # Weights that are loaded, shared and freed, but not multiplied: the model is not what is measured.
        self.ballast = torch.nn.Parameter(torch.empty(size, device="meta"))

    def forward(self, rows):
        return self.first(rows) + self.ballast[0]
"""
BODY = b'{"inputs": [[3.0, -2.0, 5.0, 7.0]]}'
REQUEST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


def send_for(port: int, seconds: float, results: multiprocessing.Queue) -> None:
    """Send as fast as answers come, and report when each came, how long it took, and what failed."""
    import threading

    answers: list[tuple[float, float]] = []
    failures: list[str] = []
    until = time.monotonic() + seconds

    def run() -> None:
        connection = socket.create_connection(("127.0.0.1", port))
        while time.monotonic() < until:
            started = time.monotonic()
            connection.sendall(REQUEST)
            answer = connection.recv(65536)
            head, _, body = answer.partition(b"\r\n\r\n")
            length = int(re.search(rb"(?i)content-length: (\d+)", head).group(1))
            while len(body) < length:
                body += connection.recv(65536)
            now = time.monotonic()
            answers.append((now, now - started))
            if not answer.startswith(b"HTTP/1.1 200"):
                failures.append(repr(answer[:200]))

    def run_safely() -> None:
        try:
            run()
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=run_safely) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((answers, failures))


class Server:
    """One server, its checkpoints, and its log."""

    def __init__(self, directory: Path, size: int, more: dict[str, str | None] | None = None) -> None:
        self.checkpoints = directory / "checkpoints"
        self.checkpoints.mkdir()
        (directory / "bench_model.py").write_text(MODEL)
        self.paths = [self._write(number, size) for number in range(3)]
        self.count = 0
        settings = {
            "SERVE_MODEL": "bench_model:Net",
            "SERVE_MODEL_ARGS": json.dumps({"size": size}),
            "SERVE_PYTHON_PATH": str(directory),
            "SERVE_CHECKPOINTS": str(self.checkpoints),
            "SERVE_STORE": str(directory / "store"),
            "SERVE_KEEP": "1",
            "SERVE_BIND": "127.0.0.1:0",
            "PYTHONPATH": str(ROOT),
        }
        self.log_path = directory / "log"
        command = [sys.executable, "-m", "gunicorn", "-c", "python:serve.gunicorn_conf", "serve.wsgi:app"]
        with self.log_path.open("wb") as log:
            stated = {**os.environ, **settings, **(more or {})}
            environ = {name: value for name, value in stated.items() if value is not None}
            self.process = subprocess.Popen(command, cwd=directory, env=environ, stderr=log)
        self.publish()
        self.wait_live(1)
        self.port = int(re.search(r"127\.0\.0\.1:(\d+)", self.log_path.read_text()).group(1))

    def _write(self, number: int, size: int) -> tuple[Path, str]:
        state = {
            "first.weight": numpy.full((2, 4), number, "float32"),
            "first.bias": numpy.zeros(2, "float32"),
            "ballast": numpy.full(size, number, "float32"),
        }
        path = self.checkpoints / f"{number}.safetensors"
        safetensors.numpy.save_file(state, str(path))
        return path, hashlib.sha256(path.read_bytes()).hexdigest()

    def publish(self) -> None:
        path, sha256 = self.paths[self.count % len(self.paths)]
        self.count += 1
        marker = path.with_name(path.name + ".done")
        temporary = path.with_name(".tmp")
        temporary.write_text(json.dumps({"sha256": sha256, "version": f"v{self.count}", "generation": self.count}))
        temporary.replace(marker)

    def events(self, kind: str) -> list[dict]:
        lines = [line for line in self.log_path.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def wait_live(self, generation: int) -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            live = self.events("swapped") + self.events("restored")
            if len({event["worker"] for event in live if event["generation"] >= generation}) == 2:
                return
            time.sleep(0.05)
        raise RuntimeError(self.log_path.read_text()[-3000:])

    def wait_until_idle(self) -> None:
        """Wait until the last published checkpoint is live in both workers; earlier ones may have been passed over."""
        until, version = time.monotonic() + 300, f"v{self.count}"
        while len([event for event in self.events("swapped") if event["version"] == version]) < 2:
            if time.monotonic() > until:
                raise RuntimeError(self.log_path.read_text()[-3000:])
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def run_round(server: Server, seconds: float, swaps_per_s: float) -> dict[str, float]:
    """Load the server for some time, and swap meanwhile."""
    results: multiprocessing.Queue = multiprocessing.Queue()
    sender = multiprocessing.Process(target=send_for, args=(server.port, seconds, results))
    first, published = len(server.events("swapped")), 0
    sender.start()
    started = time.monotonic()
    while swaps_per_s and time.monotonic() < started + seconds - 0.5 / swaps_per_s:
        time.sleep(max(0.0, started + (published + 0.5) / swaps_per_s - time.monotonic()))
        server.publish()
        published += 1
    answers, failures = results.get()
    sender.join()
    assert not failures, failures[:3]
    times = sorted(answers)
    came = [when for when, _ in times]
    took = sorted(duration for _, duration in times)
    if published:
        server.wait_until_idle()
    return {
        "requests_per_s": len(times) / (came[-1] - came[0]),
        "p50_ms": 1e3 * took[len(took) // 2],
        "p99_ms": 1e3 * took[int(len(took) * 0.99)],
        "longest_gap_ms": 1e3 * max(later - earlier for earlier, later in zip(came, came[1:])),
        "swaps_in_both_workers": (len(server.events("swapped")) - first) / 2,
    }


def compare(name: str, size: int, swaps_per_s: float, rounds: int, seconds: float) -> dict[str, object]:
    """Run rounds without and with swaps in turn."""
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory), size)
        try:
            run_round(server, 2.0, 0.0)

            def run_pair() -> tuple[dict[str, float], dict[str, float]]:
                return run_round(server, seconds, 0.0), run_round(server, seconds, swaps_per_s)

            found = [undisturbed(run_pair) for _ in range(rounds)]
            pairs = [pair for pair, _ in found]
            server.wait_live(2)
            swapped, retired = server.events("swapped")[2:], server.events("retired")
            refused = server.events("refused") + server.events("fault")
        finally:
            server.stop()
    without = {key: statistics.median(pair[0][key] for pair in pairs) for key in pairs[0][0]}
    during = {key: statistics.median(pair[1][key] for pair in pairs) for key in pairs[0][0]}
    phases = {key: statistics.median(event[key] for event in swapped) for key in ("load_s", "warm_up_s", "commit_s")}
    copied = [event for event in swapped if event["copy_s"]]
    phases |= {
        key: statistics.median(event[key] for event in copied) if copied else 0.0 for key in ("copy_s", "hash_s")
    }
    phases["free_s"] = statistics.median(event["free_s"] for event in retired)
    phases["since_marker_s"] = statistics.median(event["since_marker_s"] for event in swapped)
    return {
        "name": name,
        "size_mb": round(4 * size / 1e6, 1),
        "swaps_asked_per_s": swaps_per_s,
        "without": without,
        "during": during,
        "p99_ratio": during["p99_ms"] / without["p99_ms"],
        "throughput_ratio": during["requests_per_s"] / without["requests_per_s"],
        "phases_s": phases,
        "refused": len(refused),
        "stolen": max(stolen for _, stolen in found),
        "rounds": pairs,
    }


def write(results: list[dict], output: Path, command: str) -> None:
    worker = os.environ.get("SERVE_WORKER", "the default worker, with an event loop")
    machine = f"{os.cpu_count()} shared cores, no GPU, {platform.system()}, Python {platform.python_version()}"
    stamp, stolen = date.today().isoformat(), max(each["stolen"] for each in results)
    load = f"load average at the end {os.getloadavg()[0]:.1f}"
    output.with_name(f"{output.name}-{stamp}.json").write_text(
        json.dumps({"date": stamp, "machine": machine, "load": load, "command": command, "results": results}, indent=1)
    )
    lines = [
        f"# Swaps under load, {stamp}",
        "",
        f"{machine}; {load}.",
        f"2 workers ({worker}), {CONNECTIONS} connections, saturated; the sender has the same cores.",
        f"Medians of alternating rounds; no request failed. Others on the host took at most {stolen:.1%} of the "
        f"processors' time; what lost over 1 % was measured once more. Repeat: `{command}`.",
        "",
        "| model | swaps/s | p99 without → during, ms | ratio | longest gap without → during, ms "
        "| requests/s without → during | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        without, during = result["without"], result["during"]
        lines.append(
            f"| {result['name']} ({result['size_mb']} MB) | {result['swaps_asked_per_s']} "
            f"| {without['p99_ms']:.0f} → {during['p99_ms']:.0f} | {result['p99_ratio']:.2f} "
            f"| {without['longest_gap_ms']:.0f} → {during['longest_gap_ms']:.0f} "
            f"| {without['requests_per_s']:.0f} → {during['requests_per_s']:.0f} | {result['throughput_ratio']:.2f} |"
        )
    lines += ["", "| model | copy | hash | load | warm-up | commit | free | marker → live, s |", "|---" * 8 + "|"]
    for result in results:
        phases = result["phases_s"]
        keys = ("copy_s", "hash_s", "load_s", "warm_up_s", "commit_s", "free_s", "since_marker_s")
        lines.append(f"| {result['name']} | " + " | ".join(f"{phases[key]:.3f}" for key in keys) + " |")
    output.with_name(f"{output.name}-{stamp}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "swap")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    command = f"python bench/swap.py --rounds {options.rounds} --seconds {options.seconds:g}"
    results = [
        compare("tiny", 4, 0.5, options.rounds, options.seconds),
        compare("400 MB", 100_000_000, 0.5 / options.seconds, options.rounds, 2 * options.seconds),
        compare("tiny, 10 swaps a second", 4, 10.0, options.rounds, options.seconds),
    ]
    write(results, options.output, command)


if __name__ == "__main__":
    main()
