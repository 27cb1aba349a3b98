"""Every server that one could pick instead, side by side.

    python bench/peers                          everything: about an hour, the first time more
    python bench/peers --peers envserve "FastAPI on uvicorn" --models tiny --rounds 1 --seconds 2

Each peer has an environment of its own in the cache directory, made by pip when it is missing, with the torch of the
interpreter that runs this. One server runs at a time; the order of peers turns from round to round, and medians of the
rounds are compared. wrk makes the load on the same cores; a second client checks answers meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path

import load
import models
import process
import table
import torch
from catalog import PEERS, ROOT, Peer, Start

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "envserve-bench"
FORMATS = ("json", "binary")


def install(peer: Peer) -> Path:
    """Make a peer's environment, unless it is there, and return the directory of its programs."""
    if peer.venv is None:
        return Path(sys.executable).parent
    directory = CACHE / "venvs" / peer.venv
    mark = directory / "installed"
    requirements = [f"torch=={torch.__version__.partition('+')[0]}", "numpy", "safetensors", *peer.requirements]
    if not mark.exists() or mark.read_text() != "\n".join(requirements):
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        subprocess.run([str(directory / "bin" / "pip"), "install", "--quiet", *requirements], check=True)
        mark.write_text("\n".join(requirements))
    return directory / "bin"


def measure(peer: Peer, model: str, options: argparse.Namespace) -> list[dict[str, object]]:
    """Start one peer with one model, and load it in each format at each concurrency."""
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as directory:
        start = Start(
            bin=install(peer),
            directory=Path(directory),
            model=model,
            weights=CACHE / "weights",
            port=process.free_port(),
            workers=options.workers,
        )
        with process.running(peer, start, lambda: load.is_ready(peer, start)) as pid:
            for format in (each for each in FORMATS if each in peer.paths and each in options.formats):
                load.apply(peer, start, format, 8, 1)  # each worker has seen some requests
                for connections in options.connections:
                    before_s = process.cpu_s(pid)
                    found = load.apply(peer, start, format, connections, options.seconds)
                    cpu_us = 1e6 * (process.cpu_s(pid) - before_s) / max(1, found.count + found.checked)
                    facts = {"peer": peer.name, "model": model, "format": format, "connections": connections}
                    memory = process.pss_bytes(pid)
                    results.append({**facts, **asdict(found), "cpu_us": cpu_us, "pss_bytes": memory})
    return results


def run(options: argparse.Namespace) -> tuple[list[dict[str, object]], dict[str, str]]:
    """Measure all that was asked for, round by round."""
    peers = [peer for peer in PEERS if not options.peers or peer.name in options.peers]
    results: list[dict[str, object]] = []
    left_out: dict[str, str] = {}
    for number in range(options.rounds):
        for model in options.models:
            for peer in random.sample(peers, len(peers)):
                if peer.name in left_out:
                    continue
                try:
                    found = measure(peer, model, options)
                except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                    left_out[peer.name] = str(error).strip().splitlines()[-1][:300]
                    print(f"left out: {peer.name}: {error}", file=sys.stderr)
                    continue
                results += [{"round": number, **each} for each in found]
                for each in found:
                    print(table.line(each), file=sys.stderr, flush=True)
    return results, left_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "peers")
    parser.add_argument("--peers", nargs="*", choices=[peer.name for peer in PEERS], default=[])
    parser.add_argument("--models", nargs="*", choices=list(models.CLASSES), default=list(models.CLASSES))
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--connections", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    models.write(CACHE / "weights")
    results, left_out = run(options)
    facts = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} shared cores, no GPU, Python {sys.version.split()[0]}, torch {torch.__version__}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "command": " ".join(["python bench/peers", *sys.argv[1:]]),
        "rounds": options.rounds,
        "left_out": left_out,
    }
    output = options.output.with_name(f"{options.output.name}-{facts['date']}")
    output.with_suffix(".json").write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
    table.write(facts, results, output)


if __name__ == "__main__":
    main()
