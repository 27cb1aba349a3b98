"""What it costs when the work grows: more models, larger checkpoints, more workers.

    python bench/growth.py                      8 minutes
    python bench/growth.py --models 1 50 --megabytes 1 --workers 2

One dimension at a time from one model of 1 MB in two workers. For each: seconds from the start of gunicorn until all
models are live in all workers, seconds from the marker of a new checkpoint of one model until all workers serve it,
memory (PSS of all processes, before and at the highest during that swap), and requests a second meanwhile and without.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy
import safetensors.numpy

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench" / "peers"))

import process  # noqa: E402 - found by the line above
from swap import BODY, MODEL  # noqa: E402

_PATIENCE_S, _LOAD_S, _CONNECTIONS = 300.0, 3, 8
_COLUMNS = {
    "models": "models",
    "megabytes": "MB each",
    "workers": "workers",
    "boot_s": "boot, s",
    "swap_s": "swap, s",
    "pss_mb": "PSS, MB",
    "peak_mb": "PSS in the swap, MB",
    "requests_per_s": "requests/s",
}


def write_checkpoint(path: Path, megabytes: int, number: int) -> None:
    """Write a checkpoint of a size; its marker follows."""
    state = {
        "first.weight": numpy.full((2, 4), number, "float32"),
        "first.bias": numpy.zeros(2, "float32"),
        "ballast": numpy.full(megabytes * 250_000, number, "float32"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(state, str(path))


class Server:
    """One server and its log.

    Args:
        directory: an empty one.
        models: how many.
        megabytes: of each checkpoint.
        workers: how many processes.
    """

    def __init__(self, directory: Path, models: int, megabytes: int, workers: int) -> None:
        self._directory, self._megabytes, self._workers = directory, megabytes, workers
        (directory / "bench_model.py").write_text(MODEL)
        lines = ['model = "bench_model:Net"', f'store = "{directory}/store"', f'python_path = ["{directory}"]']
        lines += [f"workers = {workers}", 'bind = "127.0.0.1:0"', "keep = 1", "boot_wait_s = 300"]
        for number in range(models):
            checkpoint = directory / f"m{number}" / "1.safetensors"
            write_checkpoint(checkpoint, megabytes, 1)
            Path(f"{checkpoint}.done").touch()
            lines += [f"[models.m{number}]", f'checkpoints = "{checkpoint.parent}"']
            lines += [f"model_args = {{ size = {megabytes * 250_000} }}"]
        (directory / "serve.toml").write_text("\n".join(lines))
        self._log = directory / "log"
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "SERVE_CONFIG": str(directory / "serve.toml")}
        command = [sys.executable, "-m", "gunicorn", "-c", "python:serve.gunicorn_conf", "serve.wsgi:app"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=directory, env=environ, stderr=log, stdout=log)

    def wait_live(self, model: str | None, generation: int, count: int) -> None:
        """Wait until so many workers, or models in workers, serve a generation."""
        until_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until_s:
            live = {(each["worker"], each["model"]) for each in self._live() if each["generation"] >= generation}
            if sum(model in (None, name) for _, name in live) >= count:
                return
            time.sleep(0.05)
        raise RuntimeError(self._log.read_text()[-3000:])

    def _live(self) -> Iterator[dict]:
        for line in self._log.read_text().splitlines():
            if line.startswith("{") and ('"swapped"' in line or '"restored"' in line):
                with contextlib.suppress(ValueError):  # a line that is being written
                    yield json.loads(line)

    @property
    def port(self) -> int:
        """The port that gunicorn has chosen."""
        return int(re.search(r"127\.0\.0\.1:(\d+)", self._log.read_text()).group(1))

    def write_next(self) -> Path:
        """Write the first model's next checkpoint, and return its marker, which is not there yet."""
        checkpoint = self._directory / "m0" / "2.safetensors"
        write_checkpoint(checkpoint, self._megabytes, 2)
        return Path(f"{checkpoint}.done")

    def load(self) -> float:
        """Requests a second of the first model."""
        script = self._directory / "request.lua"
        script.write_text(f"wrk.method = 'POST'\nwrk.body = '{BODY.decode()}'\n")
        command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{_LOAD_S}s", "-s", str(script)]
        url = f"http://127.0.0.1:{self.port}/predict/m0"
        done = subprocess.run([*command, url], capture_output=True, text=True, check=True)
        if "Non-2xx" in done.stdout:
            raise RuntimeError(done.stdout)
        return float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout).group(1))

    def swap(self, marker: Path) -> tuple[float, int]:
        """Publish what `write_next` wrote; return the seconds until all workers serve it, and the highest memory."""
        peak_bytes, is_done = [0], threading.Event()

        def weigh() -> None:
            while not is_done.is_set():
                peak_bytes[0] = max(peak_bytes[0], process.pss_bytes(self.process.pid))
                time.sleep(0.1)

        weighing = threading.Thread(target=weigh)
        weighing.start()
        began_s = time.monotonic()
        marker.touch()
        try:
            self.wait_live("m0", 2, self._workers)
        finally:
            is_done.set()
            weighing.join()
        return time.monotonic() - began_s, peak_bytes[0]

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def measure(models: int, megabytes: int, workers: int) -> dict[str, float]:
    """Measure one size of the work."""
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory), models, megabytes, workers)
        began_s = time.monotonic()
        try:
            server.wait_live(None, 1, models * workers)
            boot_s = time.monotonic() - began_s
            server.load()
            requests_per_s, pss_bytes = server.load(), process.pss_bytes(server.process.pid)
            swap_s, peak_bytes = server.swap(server.write_next())
        finally:
            server.stop()
    sizes = {"models": models, "megabytes": megabytes, "workers": workers}
    costs = {"boot_s": boot_s, "swap_s": swap_s, "pss_mb": pss_bytes / 1e6, "peak_mb": peak_bytes / 1e6}
    return {**sizes, **costs, "requests_per_s": requests_per_s}


def write(results: list[dict[str, float]], output: Path) -> None:
    """Write the results as JSON and as a table."""
    stamp, command = date.today().isoformat(), " ".join(["python bench/growth.py", *sys.argv[1:]])
    machine = f"{os.cpu_count()} shared cores, no GPU, Python {sys.version.split()[0]}"
    facts = {"date": stamp, "machine": machine, "load": f"{os.getloadavg()[0]:.1f}", "command": command}
    lines = [f"# Cost as the work grows, {stamp}", "", f"{machine}; load average at the end {facts['load']}."]
    lines += [
        f"{_CONNECTIONS} connections ask one of the models in JSON; the others are idle. Each line was measured once. "
        f"Repeat: `{command}`.",
        "",
        "| " + " | ".join(_COLUMNS.values()) + " |",
        "|---" * len(_COLUMNS) + "|",
    ]
    for result in results:
        cells = [
            f"{result[key]:.1f}" if key.endswith("_s") and key[0] != "r" else f"{result[key]:.0f}" for key in _COLUMNS
        ]
        lines.append("| " + " | ".join(cells) + " |")
    output = output.with_name(f"{output.name}-{stamp}")
    output.with_suffix(".json").write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
    output.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "growth")
    parser.add_argument("--models", nargs="*", type=int, default=[1, 10, 50])
    parser.add_argument("--megabytes", nargs="*", type=int, default=[1, 100, 2000])
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 2, 4, 8])
    options = parser.parse_args()
    cases = [(count, 1, 2) for count in options.models]
    cases += [(1, size, 2) for size in options.megabytes] + [(1, 1, count) for count in options.workers]
    results = []
    for case in dict.fromkeys(cases):
        results.append(measure(*case))
        print(results[-1], file=sys.stderr, flush=True)
    write(results, options.output)


if __name__ == "__main__":
    main()
