"""How long locking takes, side by side with what it cannot do without: a bare solve by py-rattler.

    python bench/lock.py ../shared/repodata [--runs 9]

The directory holds repodata in channel layout (conda-forge/linux-64/repodata.json, …); it is served on the loopback
interface under the channels' canonical URLs, compressed as well, as public channels do. The sides run in turns, so that
a busy machine is busy for all of them; medians and ratios are printed. Every run is a process of its own, imports
included, with the records already fetched; both sides ask the server whether they have changed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import zstandard  # noqa: E402
from repodata_server import CANONICAL, serving, variable  # noqa: E402 - found through the line above

CUDA_SPECS = [
    "python=3.9", "pytorch=2.3.0", "pytorch-cuda=12.1", "torchvision", "flask", "gunicorn", "watchdog", "jinja2", "pip",
    "prometheus_client", "pyyaml", "numpy<2",
]  # fmt: skip
CUDA_CHANNELS = ["pytorch", "nvidia", "conda-forge"]
SERVER_SPECS = ["python=3.12", "pytorch=2.*=cpu*", "flask", "numpy", "scipy", "pip"]
MAC_SPECS = [each.replace("=cpu*", "") for each in SERVER_SPECS]
PLATFORMS = ["linux-64", "linux-aarch64", "osx-arm64"]
VIRTUAL = {"__glibc": "2.31", "__linux": "5.10", "__cuda": "12.1"}
BARE = """\
import asyncio, json, os, sys
import rattler
from rattler.networking import Client, MirrorMiddleware, RetryMiddleware
request = json.loads(sys.argv[1])
build = getattr(rattler, "BuildString", str)
virtual = [rattler.GenericVirtualPackage(rattler.PackageName(n), rattler.Version(v), build("0"))
           for n, v in {**request["virtual"], "__unix": "0", "__archspec": "1"}.items()]
client = Client([RetryMiddleware(3), MirrorMiddleware(request["mirrors"])])
gateway = rattler.Gateway(cache_dir=request["cache"], client=client)
async def solve():
    return await rattler.solve(sources=["https://conda.anaconda.org/" + c for c in request["channels"]],
        specs=[rattler.MatchSpec(s) for s in request["specs"]], platforms=[request["platform"], "noarch"],
        gateway=gateway, virtual_packages=virtual)
print(len(asyncio.run(solve())), flush=True)
os._exit(0)
"""


def environment(channels: list[str], platforms: list[str], dependencies: list[str]) -> str:
    virtual = "".join(
        f"  {each}:\n" + "".join(f'    {name}: "{version}"\n' for name, version in VIRTUAL.items())
        for each in platforms
        if each.startswith("linux")
    )
    lines = "".join(f"  - {each}\n" for each in dependencies)
    head = f"channels: [{', '.join(channels)}]\nplatforms: [{', '.join(platforms)}]\n"
    return f"{head}dependencies:\n{lines}virtual-packages:\n{virtual}"


def timed(argv: list[str], cwd: Path, env: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True)
    elapsed_s = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"{argv} ended with {done.returncode}:\n{done.stderr}")
    return elapsed_s


def measure(sides: dict[str, list[str]], cwd: Path, env: dict[str, str], runs: int) -> dict[str, float]:
    for argv in sides.values():
        timed(argv, cwd, env)  # fetches the records and compiles the byte-code
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, argv in sides.items():
            times[name].append(timed(argv, cwd, env))
    return {name: statistics.median(each) for name, each in times.items()}


def show(title: str, medians: dict[str, float], base: str, goal: str) -> None:
    print(f"\n{title} ({goal})")
    for name, median_s in medians.items():
        print(f"  {name:34} {median_s:6.2f} s   {median_s / medians[base]:5.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repodata", type=Path)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        channels = Path(scratch, "channels")
        publish(options.repodata, channels)
        with serving(channels) as base:
            run(Path(scratch), base, options.runs)
    sys.stdout.flush()


def publish(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    for path in target.rglob("repodata.json"):
        path.with_name("repodata.json.zst").write_bytes(zstandard.compress(path.read_bytes()))


def run(place: Path, base: str, runs: int) -> None:
    import json

    channels = ["conda-forge", "pytorch", "nvidia"]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # users have byte-code
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ENVTOOL_HOME": str(place / "home"),
        "ENVTOOL_MIRRORS": variable(base, channels),
    }
    (place / "environment.yml").write_text(environment(CUDA_CHANNELS, ["linux-64"], CUDA_SPECS))
    mac = [f"{each}  # [osx]" for each in MAC_SPECS if each not in SERVER_SPECS]
    several = [f"{each}  # [linux]" if each not in MAC_SPECS else each for each in SERVER_SPECS] + mac
    (place / "several.yml").write_text(environment(["conda-forge"], PLATFORMS, several))
    request = {
        "channels": CUDA_CHANNELS, "specs": CUDA_SPECS, "platform": "linux-64", "virtual": VIRTUAL,
        "cache": str(place / "bare"), "mirrors": {CANONICAL[each]: [f"{base}/{each}/"] for each in channels},
    }  # fmt: skip
    envtool = [sys.executable, "-m", "envtool"]
    lock = [*envtool, "lock", "-f", "environment.yml", "-o", "cuda-lock.yml"]
    fresh = ["sh", "-c", 'rm -f fresh-lock.yml; exec "$@"', "sh", *lock[:-1], "fresh-lock.yml"]
    bare = [sys.executable, "-c", BARE, json.dumps(request)]
    sides = {"rattler.solve alone": bare, "envtool lock, the first": fresh, "envtool lock, over one": lock}
    medians = measure(sides, place, env, runs)
    count = (place / "cuda-lock.yml").read_text().count("\n- name: ")
    show(f"CUDA environment of {count} packages", medians, "rattler.solve alone", "goal: at most 1.5x")

    one = {
        f"envtool lock -p {each}": [*envtool, "lock", "-f", "several.yml", "-o", f"{each}-lock.yml", "-p", each]
        for each in PLATFORMS
    }
    all_at_once = {f"all {len(PLATFORMS)} at once": [*envtool, "lock", "-f", "several.yml", "-o", "several-lock.yml"]}
    medians = measure({**one, **all_at_once}, place, env, runs)
    slowest = max(one, key=lambda name: medians[name])
    show("Several platforms", medians, slowest, "goal: at most 1.6x the slowest one")

    sides = {
        "envtool --help": [*envtool, "--help"],
        "envtool lock --check": [*envtool, "lock", "--check", "-f", "several.yml", "-o", "several-lock.yml"],
    }
    count = (place / "several-lock.yml").read_text().count("\n- name: ")
    show(
        f"Commands; the lock has {count} entries",
        measure(sides, place, env, runs),
        "envtool --help",
        "goals: 0.25 s, 1 s",
    )


if __name__ == "__main__":
    main()
