"""kill -9 at any moment of a download: the next run succeeds, and goes on where the killed one was."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from envtool.fetch.archive_cache import Cache, Wanted
from envtool.fetch.downloader import fetch
from tests.functional.fetch.conftest import Tally
from tests.support import mirror_answers as say
from tests.support.mirror_simulator import MirrorSimulator

FETCH = """
import json, sys
import urllib3  # beforehand, since that takes longer than what is to be killed
from pathlib import Path
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.fetch.downloader import fetch
class Tally:
    def advance(self, amount): pass
    def expect(self, total): pass
files = [Wanted(name, sha256, (url,)) for name, sha256, url in json.loads(sys.argv[2])]
print("ready", flush=True)
fetch(files, Cache(Path(sys.argv[1])), Tally())
"""


def test_thirty_kills(mirror: MirrorSimulator, tmp_path: Path) -> None:
    chance = random.Random(4)
    files = []
    for i in range(6):
        content = chance.randbytes(400_000)
        url = mirror.put(f"{i}.conda", content)
        files.append((f"{i}.conda", hashlib.sha256(content).hexdigest(), url))
    mirror.answer("[0-9].conda", then=say.trickle(400_000))
    root = tmp_path / "cache"
    argv = [sys.executable, "-c", FETCH, str(root), json.dumps(files)]
    for _ in range(30):
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.25))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        refuse_wrong_bytes(root)
    tally = Tally()
    wanted = [Wanted(name, sha256, (url,)) for name, sha256, url in files]
    paths = fetch(wanted, Cache(root), tally)
    assert [hashlib.sha256(paths[each].read_bytes()).hexdigest() for each in wanted] == [file[1] for file in files]
    assert tally.done == 6 * 400_000
    assert any(request.range for request in mirror.requests), "no run has gone on where the one before was killed"
    # A kill between the rename and the removal of the empty lock file leaves the latter, which harms nobody.
    assert [path.name for path in (root / "partial").iterdir() if path.suffix != ".lock"] == []


def refuse_wrong_bytes(root: Path) -> None:
    for path in root.glob("sha256/*/*/*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.parent.name
