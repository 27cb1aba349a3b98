"""The processor time of `envtool audit` for 1,000 packages and a database of the size of the package index's own.

    python bench/audit.py --packages 1000 --records 20000

Beside it, in turns, what it is made of: starting envtool's command line, importing what the command needs, reading the
lock, reading the zip archive. Seconds of processor time, with those of the children.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from envtool.lockfile.conda_lock_v1 import LockedPackage, format_lockfile  # noqa: E402
from tests.support.archives import lock_of  # noqa: E402


def write_lock(path: Path, count: int) -> None:
    packages = [
        LockedPackage(
            "pip", f"package-{number}", f"1.{number % 30}", "linux-64",
            f"https://example.org/package_{number}-1.{number % 30}-py3-none-any.whl", f"{number:064x}", None,
            {f"package-{number // 2}": "*"} if number else {},
        )
        for number in range(count)
    ]  # fmt: skip
    path.write_text(format_lockfile(lock_of(*packages)))


def write_database(path: Path, count: int, packages: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(count):
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.15"}]}]
            # One record in forty is about one of the packages.
            name = f"package-{number // 40 % packages}" if number % 40 == 0 else f"other-{number}"
            record = {
                "id": f"T-{number}", "modified": "2026-11-20T00:00:00Z", "summary": "s", "details": "x" * 900,
                "affected": [{"package": {"ecosystem": "PyPI", "name": name}, "ranges": ranges}],
                "database_specific": {"severity": "HIGH"},
            }  # fmt: skip
            archive.writestr(f"T-{number}.json", json.dumps(record))


def seconds(argv: list[object]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(each) for each in argv], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=int, default=1000)
    parser.add_argument("--records", type=int, default=20000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        lock, database = Path(directory, "conda-lock.yml"), Path(directory, "osv.zip")
        write_lock(lock, options.packages)
        write_database(database, options.records, options.packages)
        unzip = f"import zipfile; z = zipfile.ZipFile({str(database)!r}); [z.read(name) for name in z.namelist()]"
        read = f"import envtool.cli.audit as a, pathlib; a.read_lockfile(pathlib.Path({str(lock)!r}))"
        sides = {
            "envtool audit": [sys.executable, "-m", "envtool", "audit", "-f", lock, "--db", database],
            "envtool --version": [sys.executable, "-m", "envtool", "--version"],
            "importing it": [sys.executable, "-c", "import envtool.cli.audit"],
            "importing it, and the lock": [sys.executable, "-c", read],
            "reading the zip alone": [sys.executable, "-c", unzip],
        }
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, argv in sides.items():
                taken[name].append(seconds(argv))
        print(f"{options.packages} packages, {options.records} records, median of {options.rounds}")
        for name, found in taken.items():
            print(f"{name}: {statistics.median(found):.2f} s")


if __name__ == "__main__":
    main()
