"""A swap under load, in each server that can swap while it runs.

    python bench/peers/swapping.py              6 minutes

Eight kept connections ask for the MLP in JSON; after some seconds the server is told to serve other weights, in its own
way, and is asked on until all answers are the new model's. Each answer is the old model's, the new one's, or wrong.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import load
import models
import numpy
import process
import torch
from catalog import PEERS, ROOT, Peer
from safetensors.torch import save_file
from start import Start
from venvs import CACHE, install

MODEL, CONNECTIONS = "mlp", 8
_BEFORE_S, _AFTER_S, _PATIENCE_S = 4.0, 3.0, 60.0
_KEYS = {
    "p99_before_ms": "p99 before, ms",
    "p99_during_ms": "p99 during, ms",
    "gap_before_ms": "longest gap before, ms",
    "gap_during_ms": "longest gap during, ms",
    "first_new_s": "order → first new answer, s",
    "last_old_s": "order → last old answer, s",
    "failed": "failed",
    "wrong": "wrong",
    "more_bytes": "memory, peak over before, MB",
}


def write_other_weights(directory: Path) -> None:
    """Write weights of the same form that answer otherwise."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(100)
    save_file(models.CLASSES[MODEL]().state_dict(), directory / f"{MODEL}.safetensors")


def ask(peer: Peer, start: Start, stopping, results) -> None:
    """Ask over and over until told to stop; each answer as (when, how long, old, new or something else)."""
    dialect = load.Dialect(peer, MODEL, "json")
    row = torch.randn(models.SHAPES[MODEL], generator=torch.Generator().manual_seed(1))
    expected = {}
    for kind, weights in (("old", start.weights), ("new", start.swapped_weights)):
        with torch.inference_mode():
            expected[kind] = models.load(MODEL, str(weights))(row[None]).numpy().ravel()
    body = dialect.body(row.numpy())
    answers: list[tuple[float, float, str]] = []

    def classify(response: http.client.HTTPResponse, found: bytes) -> str:
        if response.status != 200:
            return "failed"
        numbers = dialect.outputs(found, 0)
        fitting = [kind for kind, right in expected.items() if numpy.allclose(numbers, right, rtol=1e-3, atol=1e-4)]
        return fitting[0] if fitting else "wrong"

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", start.port, timeout=_PATIENCE_S)
        while not stopping.is_set():
            sent_s = time.monotonic()
            try:
                connection.request("POST", dialect.path, body, dialect.headers)
                response = connection.getresponse()
                kind = classify(response, response.read())
            except (OSError, http.client.HTTPException):
                connection.close()
                kind = "failed"
            now_s = time.monotonic()
            answers.append((now_s, now_s - sent_s, kind))
            if kind == "failed":
                time.sleep(0.01)

    def report() -> None:
        seen = 0
        while not stopping.wait(0.1):
            new, seen = answers[seen:], len(answers)
            results.put(new)
        for thread in threads:
            thread.join()
        results.put(answers[seen:])
        results.put(None)

    threads = [threading.Thread(target=run) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    report()


def measure(peer: Peer) -> dict[str, float]:
    """Start a server, swap it under load, and say what the load saw."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_other_weights(directory / "other")
        start = Start(install(peer), directory, MODEL, CACHE / "weights", process.free_port(), 2, directory / "other")
        with process.running(peer, start, lambda: load.is_ready(peer, start)) as pid:
            context = multiprocessing.get_context("spawn")
            stopping, results = context.Event(), context.Queue()
            sender = context.Process(target=ask_by_name, args=(peer.name, start, stopping, results))
            sender.start()
            try:
                return _swap(peer, start, pid, stopping, results)
            finally:
                stopping.set()
                sender.join(30)
                sender.kill()


def ask_by_name(name: str, start: Start, stopping, results) -> None:
    """`ask` in a process of its own, to which a peer's functions do not travel."""
    ask(next(peer for peer in PEERS if peer.name == name), start, stopping, results)


def _swap(peer: Peer, start: Start, pid: int, stopping, results) -> dict[str, float]:
    answers = list(results.get(timeout=_PATIENCE_S))
    until_s = time.monotonic() + _BEFORE_S
    while time.monotonic() < until_s:
        answers += results.get(timeout=_PATIENCE_S)
    before_bytes = peak_bytes = process.pss_bytes(pid)
    ordered_s = time.monotonic()
    order = ThreadPoolExecutor(1).submit(peer.swap, start)
    while time.monotonic() < ordered_s + _PATIENCE_S:
        answers += results.get(timeout=_PATIENCE_S)
        peak_bytes = max(peak_bytes, process.pss_bytes(pid))
        olds = [when for when, _, kind in answers if kind == "old"]
        has_new = any(kind == "new" for _, _, kind in answers)
        if order.done():
            order.result()  # raises what went wrong
        if has_new and order.done() and time.monotonic() > max(olds) + _AFTER_S:
            break
    stopping.set()
    while (more := results.get(timeout=_PATIENCE_S)) is not None:
        answers += more
    return {**_summarize(sorted(answers), ordered_s), "more_bytes": peak_bytes - before_bytes}


def _summarize(answers: list[tuple[float, float, str]], ordered_s: float) -> dict[str, float]:
    first_new_s = min((when for when, _, kind in answers if kind == "new"), default=float("inf"))
    last_old_s = max(when for when, _, kind in answers if kind == "old")
    before = [answer for answer in answers if answer[0] < ordered_s]
    during = [each for each in answers if ordered_s <= each[0] <= max(first_new_s, last_old_s) + 1.0]

    def p99_ms(part: list[tuple[float, float, str]]) -> float:
        return 1e3 * sorted(took for _, took, _ in part)[int(0.99 * len(part))]

    def gap_ms(part: list[tuple[float, float, str]]) -> float:
        good = [when for when, _, kind in part if kind in ("old", "new")]
        return 1e3 * max((later - earlier for earlier, later in zip(good, good[1:])), default=0.0)

    return {
        "p99_before_ms": p99_ms(before),
        "p99_during_ms": p99_ms(during),
        "gap_before_ms": gap_ms(before),
        "gap_during_ms": gap_ms(during),
        "first_new_s": first_new_s - ordered_s,
        "last_old_s": last_old_s - ordered_s,
        "failed": sum(kind == "failed" for _, _, kind in answers),
        "wrong": sum(kind == "wrong" for _, _, kind in answers),
    }


def run(peers: list[Peer], rounds: int) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Measure each peer in turn, round by round."""
    found: dict[str, list[dict[str, float]]] = {}
    left_out: dict[str, str] = {}
    for _ in range(rounds):
        for peer in (each for each in peers if each.name not in left_out):
            try:
                found.setdefault(peer.name, []).append(measure(peer))
                print(peer.name, found[peer.name][-1], file=sys.stderr, flush=True)
            except Exception as error:  # whatever a peer does; the others go on
                left_out[peer.name] = f"{type(error).__name__}: {error}".strip().splitlines()[-1][:300]
                print(f"left out: {peer.name}: {error!r}", file=sys.stderr, flush=True)
    return found, left_out


def write(found: dict[str, list[dict[str, float]]], left_out: dict[str, str], output: Path) -> None:
    """Write the results as JSON and as a table."""
    machine = f"{os.cpu_count()} shared cores, no GPU, Python {sys.version.split()[0]}, torch {torch.__version__}"
    command = " ".join(["python bench/peers/swapping.py", *sys.argv[1:]])
    facts = {"date": date.today().isoformat(), "machine": machine, "load": f"{os.getloadavg()[0]:.1f}"}
    lines = [
        f"# Swaps under load, each server in its own way, {facts['date']}",
        "",
        f"{machine}; load average {facts['load']}. MLP 784-1024-1024-10 in JSON, 2 workers, {CONNECTIONS} connections.",
        "Medians of the rounds; failed and wrong are sums, the longest gap and the memory are the worst. Repeat: "
        f"`{command}`.",
        "",
        "| server | " + " | ".join(_KEYS.values()) + " |",
        "|---" * (len(_KEYS) + 1) + "|",
    ]
    for name, rounds in found.items():
        cells = [_cell(key, [each[key] for each in rounds]) for key in _KEYS if rounds]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", *(f"Left out: {name} ({reason})." for name, reason in left_out.items())]
    output = output.with_name(f"{output.name}-{facts['date']}")
    content = {**facts, "command": command, "left_out": left_out, "results": found}
    output.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    output.with_suffix(".md").write_text("\n".join(lines).rstrip() + "\n")
    print("\n".join(lines))


def _cell(key: str, values: list[float]) -> str:
    if key in ("failed", "wrong"):
        return str(sum(values))
    if key == "more_bytes":
        return f"{max(values) / 1e6:.0f}"
    value = max(values) if key.startswith("gap") else statistics.median(values)
    return f"{value:.2f}" if key.endswith("_s") else f"{value:.0f}"


def main() -> None:
    able = [peer for peer in PEERS if peer.swap is not None]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "peers-swap")
    parser.add_argument("--peers", nargs="*", choices=[peer.name for peer in able], default=[])
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    models.write(CACHE / "weights")
    peers = [peer for peer in able if not options.peers or peer.name in options.peers]
    write(*run(peers, options.rounds), options.output)


if __name__ == "__main__":
    main()
