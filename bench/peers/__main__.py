"""Every server that one could pick instead, side by side.

    python bench/peers                          everything; a quarter of an hour for each round, or more
    python bench/peers --install                only make the peers' environments
    python bench/peers --resume                 go on with today's run
    python bench/peers --peers envserve "FastAPI on uvicorn" --models tiny --rounds 1 --seconds 2

Each peer has an environment of its own in the cache directory, made by pip when it is missing, with the torch of the
interpreter that runs this. One server runs at a time; the order of peers turns from round to round, and medians of the
rounds are compared. wrk makes the load on the same cores; a second client checks answers meanwhile. A round that would
end after the time that `--minutes` gives is not begun.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import bare
import load
import models
import process
import table
import torch
from catalog import PEERS, ROOT, Peer, Start
from journal import Journal
from machine import undisturbed
from venvs import CACHE, install

FORMATS = ("json", "binary", "ids")
_WEIGHTS = CACHE / "weights"


def measure(peer: Peer, model: str, options: argparse.Namespace) -> list[dict[str, object]]:
    """Start one peer with one model, and load it in each format at each concurrency."""
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as directory:
        start = Start(
            bin=install(peer),
            directory=Path(directory),
            model=model,
            weights=_WEIGHTS,
            port=process.free_port(),
            workers=options.workers,
        )
        with process.running(peer, start, lambda: load.is_ready(peer, start)) as pid:
            for format in (each for each in FORMATS if each in options.formats and _has(peer, each)):
                load.apply(peer, start, format, 8, 1)  # each worker has seen some requests
                for connections in options.connections:
                    facts = {"peer": peer.name, "model": model, "format": format, "connections": connections}
                    seconds = _seconds(model, connections, options)
                    found, stolen = undisturbed(functools.partial(_load, pid, peer, start, facts, seconds))
                    results.append({**facts, **found, "stolen": stolen})
    return results


def _has(peer: Peer, format: str) -> bool:
    return ("binary" if format == "ids" else format) in peer.paths


def _load(pid: int, peer: Peer, start: Start, facts: dict[str, object], seconds: int) -> dict[str, object]:
    before_s = process.cpu_s(pid)
    found = load.apply(peer, start, facts["format"], facts["connections"], seconds)
    cpu_us = 1e6 * (process.cpu_s(pid) - before_s) / max(1, found.count + found.checked)
    return {**asdict(found), "cpu_us": cpu_us, "pss_bytes": process.pss_bytes(pid)}


def _seconds(model: str, connections: int, options: argparse.Namespace) -> int:
    # A queue of 32 before a model of a tenth of a second is three seconds long.
    return max(options.seconds, connections // 5) if model == "cnn" else options.seconds


def run_round(number: int, peers: list[Peer], options: argparse.Namespace, journal: Journal) -> None:
    """Measure each peer with each model once, in an order of this round's own."""
    for model in options.models:
        if not journal.has_bare(number, model):
            rate = bare.rate(model, _WEIGHTS, options.workers, options.seconds)
            journal.add_bare(number, model, rate)
            print(f"bare model(x)        {model:5} {rate:9.1f}/s", file=sys.stderr, flush=True)
        for peer in random.sample(peers, len(peers)):
            if journal.has((number, model, peer.name)):
                continue
            try:
                found = measure(peer, model, options)
            except (RuntimeError, OSError, AttributeError, subprocess.CalledProcessError) as error:
                reason = str(error).strip().splitlines()[-1][:300]
                journal.leave_out(number, model, peer.name, reason)
                print(f"left out: {peer.name}, {model}: {error}", file=sys.stderr)
                continue
            journal.add(number, found)
            for each in found:
                print(table.line(each), file=sys.stderr, flush=True)


def run(options: argparse.Namespace, journal: Journal) -> None:
    """Measure all that was asked for, round by round, as far as the time goes."""
    peers = [peer for peer in PEERS if not options.peers or peer.name in options.peers]
    until_s, longest_s = time.monotonic() + 60 * options.minutes, 0.0
    for number in range(options.rounds):
        began_s = time.monotonic()
        if began_s + longest_s > until_s:
            print(f"no time for round {number + 1}", file=sys.stderr)
            break
        run_round(number, peers, options, journal)
        longest_s = max(longest_s, time.monotonic() - began_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "peers")
    parser.add_argument("--peers", nargs="*", choices=[peer.name for peer in PEERS], default=[])
    parser.add_argument("--models", nargs="*", choices=list(models.CLASSES), default=list(models.CLASSES))
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=["json", "binary"])
    parser.add_argument("--connections", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=43)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    models.write(_WEIGHTS)
    if options.install:
        for peer in PEERS:
            print(peer.name, install(peer), file=sys.stderr)
        return
    facts = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} shared cores, no GPU, Python {sys.version.split()[0]}, torch {torch.__version__}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "command": " ".join(["python bench/peers", *sys.argv[1:]]),
        "workers": options.workers,
    }
    output = options.output.with_name(f"{options.output.name}-{facts['date']}")
    journal = Journal(output.with_suffix(".json"), facts, options.resume)
    run(options, journal)
    table.write(journal, output)


if __name__ == "__main__":
    main()
