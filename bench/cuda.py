"""`envtool` on an environment with CUDA as wheels: torch from the package index, with some 25 wheels of NVIDIA.

    python bench/cuda.py [--torch 2.8.0] [--lock-only] [--most-gb 8] [--cache DIRECTORY]
    python bench/cuda.py --wheels nvidia-cuda-runtime-cu12==12.8.90 nvidia-cuda-nvrtc-cu12==12.8.93

Python comes from the embedded channel. What is downloaded, some 3 GB for torch 2.8.0, stays in a cache outside of the
clone, so that a second run measures no network. Printed: seconds of locking, of `create` with archives alone and with
unpacked packages, and of `verify`; packages and bytes. Nothing is created when the archives are larger than --most-gb
or the disk has too little room.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from envtool.install.cuda import cuda_of
from envtool.install.preconditions import UNPACKED_FACTOR
from envtool.lockfile.conda_lock_v1 import read_lockfile

ROOT = Path(__file__).parents[1]
GB = 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="2.8.0", help="the version of torch")
    parser.add_argument("--wheels", nargs="+", default=[], help="requirements in the place of torch")
    parser.add_argument("--lock-only", action="store_true")
    parser.add_argument("--most-gb", type=float, default=8.0, help="the largest download")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/envserve-bench/cuda")
    options = parser.parse_args()
    work = options.cache / "work"
    work.mkdir(parents=True, exist_ok=True)
    run = Envtool(options.cache, work)
    channel = run("channel", "build").strip()
    wheels = options.wheels or [f"torch=={options.torch}"]
    lines = "".join(f"      - {wheel}\n" for wheel in wheels)
    (work / "environment.yml").write_text(
        f"channels: ['{channel}']\nplatforms: [linux-64]\ndependencies:\n  - python=3.9\n  - pip:\n{lines}"
        "virtual-packages: {linux-64: {__glibc: '2.31', __cuda: '12.8'}}\n"
    )
    run("lock", "--upgrade", name="lock")
    packages = read_lockfile(work / "conda-lock.yml").packages
    size = sum(package.size_bytes or 0 for package in packages)
    print(f"{len(packages)} packages, {size / GB:.2f} GB of archives, CUDA {cuda_of(packages)}")
    free = shutil.disk_usage(options.cache).free
    # The archives, what the cache holds unpacked, and the environment.
    if options.lock_only or size > options.most_gb * GB or free < size * (1 + UNPACKED_FACTOR):
        print(f"not created: --most-gb is {options.most_gb:g}, {free / GB:.1f} GB are free")
        return
    prefix = options.cache / "env"
    shutil.rmtree(prefix, ignore_errors=True)
    run("create", "-p", prefix, "--force", name="create (downloads what the cache lacks)")
    run("create", "-p", prefix, "--force", name="create --force (from archives)")
    run("verify", "-p", prefix, name="verify")
    shutil.rmtree(prefix)
    run("create", "-p", prefix, name="create (from unpacked packages)")
    run("create", "-p", prefix, name="create (nothing to do)")
    shutil.rmtree(prefix)


class Envtool:
    """Runs envtool with a home and a cache of its own, and prints how long it took."""

    def __init__(self, cache: Path, work: Path) -> None:
        places = {"ENVTOOL_HOME": str(cache / "home"), "ENVTOOL_CACHE_DIR": str(cache / "archives")}
        self._env = {**os.environ, **places, "PYTHONPATH": str(ROOT), "CONDA_OVERRIDE_CUDA": "12.8"}
        self._work = work

    def __call__(self, *arguments: object, name: str = "") -> str:
        argv = [sys.executable, "-m", "envtool", *map(str, arguments)]
        began_s = time.monotonic()
        done = subprocess.run(argv, cwd=self._work, env=self._env, text=True, stdout=subprocess.PIPE)
        if done.returncode:
            sys.exit(f"envtool {' '.join(map(str, arguments))} ended with {done.returncode}")
        if name:
            print(f"{time.monotonic() - began_s:8.1f} s  {name}", flush=True)
        return done.stdout


if __name__ == "__main__":
    main()
