"""`envtool create` and `verify` against a bare py-rattler install and sha256sum, interleaved in one run.

The environment is the embedded channel's Python 3.9 with pip (12 MB of archives, 46 MB unpacked, 2,000 files), so that
no network is needed once the channel is built; `--with DIRECTORY` adds a package that holds a whole directory, such as
the site-packages of an environment with torch. Contestants, each a process of its own:

- create-cold: `envtool create` with an empty cache; it downloads over HTTP from 127.0.0.1, hashes, unpacks, compiles
  all byte-code, reads every file back, and keeps what it unpacked.
- rattler-http: `rattler.install` of the same from the same server, with an empty package cache.
- create-archives: `envtool create --force` with all archives in the cache, nothing of it unpacked.
- rattler-cold: `rattler.install` of the same archives from the disk, with an empty package cache.
- create-warm: `envtool create` with the packages unpacked in the cache.
- rattler-warm: `rattler.install` with a filled package cache, from which it hard-links without a look at the bytes.
- rattler-copy: the same with its package cache on another file system, so that every file is a copy as it is with us.
- create-nothing: `envtool create` of an environment that is the lock's already.
- verify: `envtool verify` of it.
- sha256sum: `sha256sum` of the same files, two processes.

    python bench/create.py [--rounds 5] [--with DIRECTORY] [--scratch DIRECTORY] [--elsewhere DIRECTORY]

Printed: medians of wall and of CPU seconds (user and system, children included), ratios to the contestants named, and
the peak memory of each. Where other work shares the cores, the CPU seconds say more.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
ENVTOOL = [sys.executable, "-m", "envtool"]
AGAINST = {
    "create-cold": ("rattler-http",),
    "create-archives": ("rattler-cold",),
    "create-warm": ("rattler-warm", "rattler-copy", "create-archives"),
    "verify": ("sha256sum",),
}

SPEC = """\
channels: ["file://{channel}"]
dependencies: [python, pip{more}]
virtual-packages: {{linux-64: {{__glibc: "2.29"}}}}
"""
INSTALL = """
import asyncio, json, os, sys
from pathlib import Path
import rattler
prefix, cache, *archives = sys.argv[1:]
def record(archive):
    url, index = archive.split("=")
    package = rattler.PackageRecord.from_index_json(Path(index))
    return rattler.RepoDataRecord(package, url.rpartition("/")[2], url, url.rpartition("/")[0])
async def install():
    records = [record(archive) for archive in archives]
    await rattler.install(records, target_prefix=prefix, cache_dir=Path(cache), show_progress=False)
asyncio.run(install())
os._exit(0)
"""


class Reading(NamedTuple):
    """What one process took; a child of it counts in the CPU time, the larger of all in the memory."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--with", type=Path, dest="more", metavar="DIRECTORY")
    parser.add_argument("--scratch", type=Path, help="where environments and caches are made")
    parser.add_argument("--elsewhere", type=Path, default=Path("/dev/shm"), help="a directory on another file system")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=options.scratch) as scratch,
        tempfile.TemporaryDirectory(prefix="bench-", dir=options.elsewhere) as elsewhere,
    ):
        report(measure(Path(scratch), Path(elsewhere), options.rounds, options.more))


def measure(scratch: Path, elsewhere: Path, rounds: int, more: Path | None) -> dict[str, list[Reading]]:
    env = {**os.environ, "ENVTOOL_HOME": str(scratch / "home"), "HOME": str(scratch), "PYTHONPATH": str(ROOT)}
    channel = make_channel(scratch, env, more)
    with serving(channel) as url:
        lock, http_lock = (scratch / name for name in ("conda-lock.yml", "http-lock.yml"))
        http_lock.write_text(lock.read_text().replace(f"file://{channel}", url))
        made = scratch / "made"
        run([*ENVTOOL, "create", "-f", str(lock), "-p", str(made)], env)
        paths = sorted(channel.rglob("*.conda"))
        archives = [f"{path.as_uri()}={index_of(path, scratch)}" for path in paths]
        downloads = [archive.replace(f"file://{channel}", url) for archive in archives]
        warm, far = scratch / "warm", elsewhere / "warm"
        for number, cache in enumerate((warm, far)):
            run([sys.executable, "-c", INSTALL, str(scratch / f"filled{number}"), str(cache), *archives], env)
        files = "find . -type f -print0 | xargs -0 -P 2 -n 500 sha256sum"
        figures: dict[str, list[Reading]] = {}
        for number in range(rounds):
            new = scratch / f"new{number}"

            def create(place: str, *options: str, lock: Path = lock, new: Path = new) -> list[str]:
                return [*ENVTOOL, "create", "-f", str(lock), "-p", str(new / place), *options]

            def install(place: str, cache: Path, archives: list[str] = archives, new: Path = new) -> list[str]:
                return [sys.executable, "-c", INSTALL, str(new / place), str(cache), *archives]

            commands = {
                "create-cold": create("a", lock=http_lock),
                "rattler-http": install("b", new / "http-cache", downloads),
                "create-archives": create("c", "--force"),
                "rattler-cold": install("d", new / "cache"),
                "create-warm": create("e"),
                "rattler-warm": install("f", warm),
                "rattler-copy": install("g", far),
                "create-nothing": [*ENVTOOL, "create", "-f", str(lock), "-p", str(made)],
                "verify": [*ENVTOOL, "verify", "-f", str(lock), "-p", str(made)],
                "sha256sum": ["sh", "-c", f"cd {made} && {files}"],
            }
            for name, argv in commands.items():
                empty = {"ENVTOOL_CACHE_DIR": str(new / "empty")} if name == "create-cold" else {}
                figures.setdefault(name, []).append(timed(argv, {**env, **empty}))
    return figures


def make_channel(scratch: Path, env: dict[str, str], more: Path | None) -> Path:
    channel = scratch / "channel"
    run(
        [*ENVTOOL, "channel", "build", "python", "pip", "--output", str(channel)],
        {**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if more:
        pack(more, scratch / "more-1.0-0.conda")
        run([*ENVTOOL, "channel", "add", str(channel), str(scratch / "more-1.0-0.conda")], env)
    spec = scratch / "environment.yml"
    spec.write_text(SPEC.format(channel=channel, more=", more" if more else ""))
    run([*ENVTOOL, "lock", "-f", str(spec), "-o", str(scratch / "conda-lock.yml")], env)
    return channel


def pack(directory: Path, archive: Path) -> None:
    """A package that brings a directory, for no platform and no Python in particular, as `lib/python3.9/more`."""
    import zstandard

    index = {"name": "more", "version": "1.0", "build": "0", "build_number": 0, "depends": [], "subdir": "noarch"}
    paths = []
    with tempfile.TemporaryFile(dir=archive.parent) as payload:
        compressor = zstandard.ZstdCompressor(level=1, threads=2)
        with compressor.stream_writer(payload, closefd=False) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
            for path in sorted(each for each in directory.rglob("*") if each.is_file() and each.suffix != ".pyc"):
                name = f"lib/python3.9/more/{path.relative_to(directory)}"
                tar.add(path, name)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                size_bytes = path.stat().st_size
                entry = {"_path": name, "path_type": "hardlink", "sha256": digest, "size_in_bytes": size_bytes}
                paths.append(entry)
        payload.seek(0)
        info = io.BytesIO()
        with tarfile.open(fileobj=info, mode="w") as tar:
            for name, value in (("index.json", index), ("paths.json", {"paths": paths, "paths_version": 1})):
                content = json.dumps(value).encode()
                member = tarfile.TarInfo(f"info/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as outer:
            outer.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
            with outer.open(f"pkg-{archive.stem}.tar.zst", "w", force_zip64=True) as target:
                shutil.copyfileobj(payload, target, 1 << 20)
            outer.writestr(f"info-{archive.stem}.tar.zst", zstandard.ZstdCompressor().compress(info.getvalue()))


@contextmanager
def serving(channel: Path) -> Iterator[str]:
    argv = [sys.executable, str(ROOT / "bench" / "fetch.py"), "--serve", str(channel)]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip().rstrip("/")
    finally:
        server.terminate()
        server.wait()


def index_of(archive: Path, scratch: Path) -> Path:
    sys.path.insert(0, str(ROOT))
    from envtool.artifacts.conda_archive import read_info

    path = scratch / f"{archive.name}.json"
    path.write_bytes(read_info(archive, ["index.json"])["index.json"])
    return path


def run(argv: list[str], env: dict[str, str]) -> None:
    subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL)


def timed(argv: list[str], env: dict[str, str]) -> Reading:
    # Of this one process and its children: getrusage would give the largest of all processes so far.
    started = time.perf_counter()
    process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{argv} ended with {process.returncode}")
    return Reading(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000)


def report(figures: dict[str, list[Reading]]) -> None:
    walls = {name: statistics.median(row.wall_s for row in rows) for name, rows in figures.items()}
    cpus = {name: statistics.median(row.cpu_s for row in rows) for name, rows in figures.items()}
    for name, rows in figures.items():
        others = "".join(
            f"  {walls[name] / walls[other]:.2f} x {other} ({cpus[name] / cpus[other]:.2f} in CPU)"
            for other in AGAINST.get(name, ())
        )
        memory = max(row.peak_mb for row in rows)
        print(f"{name:15} {walls[name]:7.2f} s {cpus[name]:7.2f} s CPU {memory:5.0f} MB{others}")


if __name__ == "__main__":
    main()
