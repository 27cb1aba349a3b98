"""Cold download: envtool's proven fetch against py-rattler's own downloads of the same archives, interleaved.

A channel on 127.0.0.1 (a server process of its own, sendfile) holds packages of a size distribution like that of an
environment with PyTorch: a few large archives and many small ones. In each round every contestant fetches all of it
into an empty directory, in changing order, each in a process of its own:

- envtool: `fetch` into an empty cache; every byte hashed, every file synced and renamed.
- rattler-raw: `package_streaming.download_to_path`, which writes what comes and proves nothing.
- rattler-hashed: the same, and then the sha256 of each file, in as many threads.
- rattler-proven: `package_streaming.download_and_extract` with the expected sha256, its only download that hashes; it
  extracts at the same time.

    python bench/fetch.py [--rounds 7] [--large-mb 120] [--small 150]

Printed: medians, ratios to envtool, and the peak memory (resident set) of each process.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import zstandard

CONTESTANTS = ("envtool", "rattler-raw", "rattler-hashed", "rattler-proven")
JOBS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--large-mb", type=int, default=120)
    parser.add_argument("--small", type=int, default=150)
    parser.add_argument("--child", nargs=3, metavar=("WHO", "RECORDS", "SCRATCH"), help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    elif options.child:
        child(*options.child)
    else:
        compare(options.rounds, options.large_mb, options.small)


def compare(rounds: int, large_mb: int, small: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-fetch-") as directory:
        place = Path(directory)
        total_bytes = make_channel(place / "channel", large_mb, small)
        argv = [sys.executable, str(Path(__file__).resolve()), "--serve", str(place / "channel")]
        server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            (place / "records.json").write_text(records_of(place / "channel", server.stdout.readline().strip()))
            results = measure(place, rounds)
        finally:
            server.terminate()
            server.wait()
    show(results, total_bytes)


def measure(place: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    results: dict[str, list[dict[str, float]]] = {who: [] for who in CONTESTANTS}
    for number in range(rounds + 1):
        for who in CONTESTANTS[number % 4 :] + CONTESTANTS[: number % 4]:
            scratch = place / "scratch"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            argv = [sys.executable, __file__, "--child", who, str(place / "records.json"), str(scratch)]
            done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
            if number:  # the first round only warms up
                results[who].append(json.loads(done.stdout.splitlines()[-1]))
    return results


def show(results: dict[str, list[dict[str, float]]], total_bytes: int) -> None:
    ours = statistics.median(each["seconds"] for each in results["envtool"])
    print(f"{total_bytes / 1e6:.0f} MB")
    for who, runs in results.items():
        seconds = sorted(run["seconds"] for run in runs)
        median = statistics.median(seconds)
        memory = max(each["peak_mb"] for each in runs)
        print(
            f"{who:15} {median:6.2f} s ({seconds[0]:.2f}-{seconds[-1]:.2f}) {total_bytes / 1e6 / median:6.0f} MB/s"
            f"  peak memory {memory:4.0f} MB  envtool/this {ours / median:.2f}"
        )


def child(who: str, records: str, scratch: str) -> None:
    entries = json.loads(Path(records).read_text())
    seconds = envtool(entries, Path(scratch)) if who == "envtool" else asyncio.run(rattler(entries, Path(scratch), who))
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    peak_mb = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb}), flush=True)
    os._exit(0)  # py-rattler may crash while the interpreter shuts down


def envtool(entries: list[dict[str, str]], scratch: Path) -> float:
    import urllib3  # noqa: F401 - rattler's own library is loaded beforehand as well

    from envtool.fetch.archive_cache import Cache, Wanted
    from envtool.fetch.downloader import fetch

    class Silent:
        def advance(self, amount: int) -> None:
            pass

        expect = advance

    wanted = [Wanted(entry["name"], entry["sha256"], (entry["url"],)) for entry in entries]
    began_s = time.perf_counter()
    fetch(wanted, Cache(scratch / "cache"), Silent())
    return time.perf_counter() - began_s


async def rattler(entries: list[dict[str, str]], scratch: Path, who: str) -> float:
    from rattler.networking import Client
    from rattler.package_streaming import download_and_extract, download_to_path

    from envtool.fetch.archive_cache import sha256_of

    client, gate, pool = Client(), asyncio.Semaphore(JOBS), ThreadPoolExecutor(JOBS)
    loop = asyncio.get_running_loop()

    async def one(entry: dict[str, str]) -> None:
        async with gate:
            if who == "rattler-proven":
                target = str(scratch / entry["name"].removesuffix(".conda"))
                got, _ = await download_and_extract(client, entry["url"], target, bytes.fromhex(entry["sha256"]))
                assert got.hex() == entry["sha256"]
            else:
                await download_to_path(client, entry["url"], str(scratch / entry["name"]))
            if who == "rattler-hashed":
                assert await loop.run_in_executor(pool, sha256_of, scratch / entry["name"]) == entry["sha256"]

    began_s = time.perf_counter()
    await asyncio.gather(*(one(each) for each in entries))
    return time.perf_counter() - began_s


def make_channel(root: Path, large_mb: int, small: int) -> int:
    chance = random.Random(0)
    (root / "noarch").mkdir(parents=True)
    sizes = [large_mb * 10**6, large_mb * 10**6 // 2, large_mb * 10**6 // 4]
    sizes += [int(chance.lognormvariate(12, 1.3)) for _ in range(small)]
    return sum(make_package(root / "noarch", f"p{i}", os.urandom(size)) for i, size in enumerate(sizes))


def make_package(subdir: Path, name: str, content: bytes) -> int:
    path = subdir / f"{name}-1.0-0.conda"
    index = {"name": name, "version": "1.0", "build": "0", "build_number": 0, "depends": [], "subdir": "noarch"}
    digest = hashlib.sha256(content).hexdigest()
    entry = {"_path": f"share/{name}", "path_type": "hardlink", "sha256": digest, "size_in_bytes": len(content)}
    info = {"info/index.json": index, "info/paths.json": {"paths": [entry], "paths_version": 1}}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
        archive.writestr(
            f"info-{path.stem}.tar.zst", packed({key: json.dumps(each).encode() for key, each in info.items()})
        )
        archive.writestr(f"pkg-{path.stem}.tar.zst", packed({f"share/{name}": content}))
    return path.stat().st_size


def packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return zstandard.ZstdCompressor(level=1).compress(stream.getvalue())


def records_of(channel: Path, url: str) -> str:
    paths = sorted((channel / "noarch").glob("*.conda"))
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return json.dumps(
        [{"name": path.name, "url": f"{url}noarch/{path.name}", "sha256": each} for path, each in zip(paths, digests)]
    )


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def copyfile(self, source: object, outputfile: object) -> None:
        self.wfile.flush()
        self.connection.sendfile(source)  # type: ignore[arg-type]


def serve(channel: Path) -> None:
    os.chdir(channel)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}/", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
