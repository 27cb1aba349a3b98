"""`envtool create` and `verify` against a bare py-rattler install and sha256sum, interleaved in one run.

The environment is the embedded channel's Python 3.9 with pip (12 MB of archives, 46 MB unpacked, 2,000 files), so that
no network is needed once the channel is built. Contestants, each a process of its own:

- create-warm: `envtool create` into an empty place, archives in the cache; it hashes the archives, unpacks, compiles
  all byte-code, and reads every file back.
- rattler-cold: `rattler.install` of the same archives into an empty place, with an empty package cache.
- rattler-warm: the same with a filled package cache, from which it hard-links without a look at the bytes.
- create-nothing: `envtool create` of an environment that is the lock's already.
- verify: `envtool verify` of it.
- sha256sum: `sha256sum` of the same files, two processes.

    python bench/create.py [--rounds 5]

Printed: medians in seconds, the ratio to the contestant named, and the peak memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
AGAINST = {"create-warm": "rattler-cold", "create-nothing": "create-warm", "verify": "sha256sum"}

SPEC = """\
channels: ["file://{channel}"]
dependencies: [python, pip]
virtual-packages: {{linux-64: {{__glibc: "2.29"}}}}
"""
INSTALL = """
import asyncio, json, os, sys
from pathlib import Path
import rattler
prefix, cache, *archives = sys.argv[1:]
def record(archive):
    path, index = (Path(part) for part in archive.split("="))
    package = rattler.PackageRecord.from_index_json(index)
    return rattler.RepoDataRecord(package, path.name, path.as_uri(), path.parent.as_uri())
async def install():
    records = [record(archive) for archive in archives]
    await rattler.install(records, target_prefix=prefix, cache_dir=Path(cache), show_progress=False)
asyncio.run(install())
os._exit(0)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        report(measure(Path(scratch), options.rounds))


def measure(scratch: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    env = {**os.environ, "ENVTOOL_HOME": str(scratch / "home"), "HOME": str(scratch), "PYTHONPATH": str(ROOT)}
    envtool = [sys.executable, "-m", "envtool"]
    channel = scratch / "channel"
    run(
        [*envtool, "channel", "build", "python", "pip", "--output", str(channel)],
        {**os.environ, "PYTHONPATH": str(ROOT)},
    )
    spec, lock = scratch / "environment.yml", scratch / "conda-lock.yml"
    spec.write_text(SPEC.format(channel=channel))
    run([*envtool, "lock", "-f", str(spec)], env)
    made = scratch / "made"
    create = [*envtool, "create", "-f", str(lock), "-p"]
    run([*create, str(made)], env)
    archives = [f"{path}={index_of(path, scratch)}" for path in sorted(channel.rglob("*.conda"))]
    warm = scratch / "warm"
    run([sys.executable, "-c", INSTALL, str(scratch / "filled"), str(warm), *archives], env)
    files = "find . -type f -print0 | xargs -0 -P 2 -n 500 sha256sum"
    figures: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds):
        new = scratch / f"new{number}"
        commands = {
            "create-warm": [*create, str(new / "a")],
            "rattler-cold": [sys.executable, "-c", INSTALL, str(new / "b"), str(new / "cache"), *archives],
            "rattler-warm": [sys.executable, "-c", INSTALL, str(new / "c"), str(warm), *archives],
            "create-nothing": [*create, str(made)],
            "verify": [*envtool, "verify", "-f", str(lock), "-p", str(made)],
            "sha256sum": ["sh", "-c", f"cd {made} && {files}"],
        }
        for name, argv in commands.items():
            figures.setdefault(name, []).append(timed(argv, env))
        shutil.rmtree(new)
    return figures


def index_of(archive: Path, scratch: Path) -> Path:
    sys.path.insert(0, str(ROOT))
    from envtool.archive import read_info

    path = scratch / f"{archive.name}.json"
    path.write_bytes(read_info(archive, ["index.json"])["index.json"])
    return path


def run(argv: list[str], env: dict[str, str]) -> None:
    subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL)


def timed(argv: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Wall seconds, and the largest resident set of any child so far in MB."""
    started = time.perf_counter()
    subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000


def report(figures: dict[str, list[tuple[float, float]]]) -> None:
    medians = {name: statistics.median(seconds for seconds, _ in rows) for name, rows in figures.items()}
    for name, seconds in medians.items():
        other = AGAINST.get(name)
        ratio = f"{seconds / medians[other]:6.2f} x {other}" if other else ""
        print(f"{name:15} {seconds:7.2f} s  {ratio}")
    print(f"peak memory of any of them: {max(memory for rows in figures.values() for _, memory in rows):.0f} MB")


if __name__ == "__main__":
    main()
