"""The real conda-lock, whichever version runs these tests, and py-rattler read what envtool writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCKS = {"environment.yml": "conda-lock.yml", "environment-cpu.yml": "cpu-conda-lock.yml"}
# It answers what conda-lock asks at its start; a solve would end with an error.
CONDA = '#!/bin/sh\n[ "$1" = --version ] && echo "conda 24.5.0" && exit 0\necho "asked to solve: $*" >&2\nexit 42\n'


def run(*argv: object, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ENVTOOL_HOME": str(cwd / "home")}
    done = subprocess.run(
        [sys.executable, "-m", *(str(argument) for argument in argv)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(params=LOCKS.items(), ids=LOCKS)
def place(request, tmp_path: Path) -> Path:
    """A directory with an environment.yml, its lock and a stub of conda."""
    source, lock = request.param
    shutil.copy(ROOT / source, tmp_path / source)
    shutil.copy(ROOT / lock, tmp_path / "conda-lock.yml")
    (tmp_path / "conda").write_text(CONDA)
    (tmp_path / "conda").chmod(0o755)
    (tmp_path / "lookup.json").write_text("{}")
    return tmp_path


def check_input_hash(place: Path, source: str) -> str:
    run("envtool", "export", "virtual-packages", "-o", "virtual-packages.yml", cwd=place)
    return run(
        "conda_lock", "lock", "--conda", place / "conda", "--check-input-hash",
        "--virtual-package-spec", "virtual-packages.yml",
        "--pypi_to_conda_lookup_file", (place / "lookup.json").as_uri(),
        "-f", source, "--lockfile", "conda-lock.yml", cwd=place,
    )  # fmt: skip


def test_conda_lock_finds_our_lock_current(place: Path) -> None:
    before = (place / "conda-lock.yml").read_bytes()
    source = next(path.name for path in place.glob("environment*.yml"))
    assert "Spec hash already locked for" in check_input_hash(place, source)
    assert (place / "conda-lock.yml").read_bytes() == before


def test_conda_lock_finds_our_lock_stale_when_a_line_was_added(place: Path) -> None:
    source = next(place.glob("environment*.yml"))
    source.write_text(source.read_text().replace("  - pip\n", "  - pip\n  - zstd\n"))
    with pytest.raises(AssertionError, match="asked to solve"):
        check_input_hash(place, source.name)


def test_conda_lock_renders_the_urls_of_our_export(place: Path) -> None:
    platform = "osx-arm64" if (place / "environment-cpu.yml").exists() else "linux-64"
    run(
        "conda_lock",
        "render",
        "-k",
        "explicit",
        "-p",
        platform,
        "--filename-template",
        "rendered",
        "conda-lock.yml",
        cwd=place,
    )
    ours = run("envtool", "export", "explicit", "-p", platform, cwd=place)
    theirs = next(place.glob("rendered*")).read_text()
    urls = [sorted(line for line in text.splitlines() if line.startswith("https://")) for text in (ours, theirs)]
    assert urls[0] == urls[1]
    assert len(urls[0]) > 60


def test_our_order_of_archives_is_one_in_which_everything_comes_after_what_it_needs(place: Path) -> None:
    from envtool.export.conda import in_order
    from envtool.lockfile.conda_lock_v1 import read_lockfile

    packages = in_order(read_lockfile(place / "conda-lock.yml").select("linux-64"))
    needs = {package.name: set(package.dependencies) for package in packages}
    at = {each.name: position for position, each in enumerate(packages)}
    late = [(name, other) for name in at for other in needs[name] if at.get(other, 0) > at[name]]
    # Packages that need each other (_openmp_mutex and libgcc, python and pip) have no such order.
    assert [(name, other) for name, other in late if name not in reachable(other, needs)] == []


def reachable(start: str, needs: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        found = needs.get(todo.pop(), set()) - seen
        seen |= found
        todo += found
    return seen


def test_py_rattler_reads_our_lock(place: Path) -> None:
    from rattler.lock import LockFile

    from envtool.lockfile.conda_lock_v1 import read_lockfile

    environment = LockFile.from_path(place / "conda-lock.yml").default_environment()
    ours = read_lockfile(place / "conda-lock.yml")
    assert {str(each) for each in environment.platforms()} == set(ours.platforms)
    for platform in environment.platforms():
        records = environment.conda_repodata_records_for_platform(platform)
        found = {(record.url, record.sha256.hex()) for record in records}
        assert found == {
            (package.url, package.sha256) for package in ours.packages if package.platform == str(platform)
        }


def test_our_pinned_environment_is_one_that_conda_lock_can_read(place: Path) -> None:
    run("envtool", "export", "environment", "-p", "linux-64", "-o", "pinned.yml", cwd=place)
    code = (
        "from conda_lock.src_parser.environment_yaml import parse_environment_file as parse; import pathlib\n"
        "spec = parse(pathlib.Path('pinned.yml'), ['linux-64'], '')\n"
        "print(len(spec.dependencies['linux-64']), {each.build is None for each in spec.dependencies['linux-64']})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True)
    count = (place / "conda-lock.yml").read_text().count("  platform: linux-64\n")
    assert done.stdout.strip() == f"{count} {{False}}", done.stderr


def test_a_lock_that_conda_lock_wrote_is_read(tmp_path: Path) -> None:
    from envtool.lockfile.conda_lock_v1 import format_lockfile, read_lockfile

    shutil.copy(ROOT / "conda-lock.yml", tmp_path / "conda-lock.yml")
    code = (
        "from conda_lock.lockfile import parse_conda_lock_file as parse, write_conda_lock_file as write\n"
        "from pathlib import Path\n"
        "write(parse(Path('conda-lock.yml')), Path('theirs-lock.yml'), metadata_choices=[])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, theirs = read_lockfile(tmp_path / "conda-lock.yml"), read_lockfile(tmp_path / "theirs-lock.yml")
    assert sorted(theirs.packages, key=lambda each: each.sort_key) == list(ours.packages)
    assert format_lockfile(theirs) == (tmp_path / "conda-lock.yml").read_text()
