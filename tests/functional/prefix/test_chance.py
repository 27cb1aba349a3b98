"""Nothing fails by chance: every command again and again, with threads and the disk as they seldom are, under load.

Every run rolls other dice, unless ENVTOOL_TEST_SEED names those of an earlier one. For a disk that is truly slow, let
TMPDIR be on one, such as ext4 on a loop device mounted with -o sync.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.functional.prefix.conftest import ROOT, User
from tests.support import odd_archives
from tests.support.archives import Archive, File

SPEC = "channels: ['file://{}']\nplatforms: [linux-64]\nvirtual-packages: {{linux-64: {{__glibc: '2.31'}}}}\n"
ROUNDS = int(os.environ.get("ENVTOOL_TEST_ROUNDS", "20"))
SEED = os.environ.get("ENVTOOL_TEST_SEED", str(random.randrange(10**9)))
BUSY = int(os.environ.get("ENVTOOL_TEST_BUSY", str(2 * (os.cpu_count() or 1))))
COMMANDS = [
    "lock", "lock --check", "lock --upgrade", "lock --dry-run", "lock -f all.yml -o all-lock.yml", "outdated",
    "create -p one", "create -p one --force", "create -p one --repair", "create -p one --dry-run",
    "create -p two -f all-lock.yml", "create -p two", "verify -p one", "verify -p one --rebuild", "digest -p one",
    "tree", "why base-of-it", "why-not needs=2", "diff conda-lock.yml all-lock.yml", "export explicit -o x.txt",
    "export cyclonedx -o x.json", "export environment -o x.yml", "export pylock -o x.toml", "doctor --offline", "list",
    "cache list", "run -p one -- true", "shell-hook bash", "mirror list", "channel index again",
    "channel check channel", "channel mirror mirrored", "bundle create -o b.pyz --python 3.9", "bundle verify b.pyz",
    "bundle install b.pyz -p three", "ci -p four --output out", "init --list", "remove -p one --yes",
]  # fmt: skip
# Exit code 1 is an answer of these.
ANSWERS = ("why-not", "outdated", "doctor")


@contextmanager
def load() -> Iterator[None]:
    """A machine that is busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    try:
        yield
    finally:
        for each in busy:
            each.kill()
            each.wait()


@pytest.fixture
def place(user: User) -> Path:
    for name in ("channel", "again"):
        noarch = user.home / name / "noarch"
        noarch.mkdir(parents=True)
        odd_archives.write_all(noarch)
    (user.home / "channel/noarch/no-index-1.0-h0_0.conda").unlink()
    (user.home / "channel/noarch/dots-old-1.0-h0_0.tar.bz2").unlink()
    Archive("tool", {"bin/tool": File(b"#!/bin/sh\n", 0o755)}).write(user.home / "channel")
    user.run("channel", "index", user.home / "channel")
    spec = SPEC.format(user.home / "channel")
    (user.home / "environment.yml").write_text(f"{spec}dependencies: [needs, links, tool, clobber-a, clobber-b]\n")
    (user.home / "all.yml").write_text(f"{spec}dependencies: [zip64, sparse, dots, clobber-c, clobber-d, links]\n")
    return user.home


@pytest.mark.nightly
def test_every_command_again_and_again(user: User, place: Path) -> None:
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests/support/chance'}"
    with load():
        for number in range(ROUNDS):
            for command in COMMANDS:
                env = {"PYTHONPATH": paths, "PYTHONDEVMODE": "1", "CHANCE_SEED": f"{SEED} {number} {command}"}
                process = user.start(*command.split(), **env)
                out, err = process.communicate(timeout=600)
                code = process.returncode
                known = code == 0 or (code == 1 and command.startswith(ANSWERS))
                if not known or re.search(r"Traceback|Exception ignored|ResourceWarning|RuntimeWarning", err):
                    pytest.fail(f"seed {SEED}, round {number}: {command}: {code}\n{out[-500:]}\n{err[-3000:]}")
