"""The rendered unit under a real systemd: started, handed over, restarted, watched, stopped, and what it may do."""

from __future__ import annotations

import json
import signal
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from envtool.lockfile.conda_lock_v1 import format_lockfile
from envtool.templates import find_kind, render
from tests.functional.deploy import machine
from tests.functional.deploy.machine import Machine
from tests.functional.deploy.serving import APP, ROOT, Load, release, wait_for
from tests.support.archives import lock_of

pytestmark = pytest.mark.skipif(machine.why_not() is not None, reason=machine.why_not() or "")

PLACE = Path("/srv/envserve")
USER = "daemon"
# The interpreter of the tests may lie below a home, where no service may look: it is seen below /srv as well.
HOME = {
    "PYTHONHOME": "/srv/python", "PYTHONPATH": "/srv/checkout:/srv/site", "LD_LIBRARY_PATH": "/srv/python/lib",
    "PYTHONDONTWRITEBYTECODE": "1",
}  # fmt: skip
INTERPRETER = f"/srv/python/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
PYTHON = f'#!/bin/sh\n{" ".join(f"{name}={value}" for name, value in HOME.items())} exec {INTERPRETER} "$@"\n'
PROBES = """\
import json
import os
import socket
import subprocess
from pathlib import Path

import word_app

ROOT = Path(os.environ["ENVSERVE_RUN"]).parent


def write(path):
    (path / "probe").write_text("x")


def raw():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
        pass


TRIES = {
    "write run": lambda: write(ROOT / "run"),
    "write store": lambda: write(ROOT / "store"),
    "write tmp": lambda: write(Path("/tmp")),
    "write app": lambda: write(ROOT / "app"),
    "write releases": lambda: write(ROOT / "releases"),
    "write etc": lambda: write(Path("/etc")),
    "read home": lambda: os.listdir("/root"),
    "see others": lambda: Path("/proc/1/cmdline").read_bytes(),
    "raw socket": raw,
    "mount": lambda: subprocess.run(["unshare", "--user", "true"], check=True, capture_output=True),
    "device": lambda: os.stat("/dev/kmsg"),
}


def answer(attempt):
    try:
        attempt()
        return "done"
    except (OSError, subprocess.SubprocessError) as error:
        return type(error).__name__


def app(environ, start_response):
    if environ["PATH_INFO"] != "/try":
        return word_app.app(environ, start_response)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    facts = {name: status[name].split()[0] for name in ("Uid", "NoNewPrivs", "CapEff", "CapBnd", "Seccomp")}
    body = json.dumps({**facts, **{name: answer(each) for name, each in TRIES.items()}}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def rendered(**values: str) -> str:
    template = find_kind("systemd")
    return render(template, {"root": str(PLACE), "user": USER, "watchdog_s": "4", **values})


class Service:
    """The service of a machine, and the commands of its user."""

    def __init__(self, inside: Machine, directory: Path) -> None:
        self.machine = inside
        self.directory = directory
        self.port = 0

    def apply(self, word: str, *marks: str) -> dict[str, object]:
        lock = self.directory / "conda-lock.yml"
        lock.write_text(format_lockfile(lock_of(release(self.directory / "channel", word, *marks, python=PYTHON))))
        arguments = ("apply", PLACE, "-f", lock, "--app", "probing_app:app", "--json")
        return dict(json.loads(self.envtool(*arguments)))

    def envtool(self, *arguments: object) -> str:
        env = {
            **HOME,
            "HOME": "/srv/home",
            "SERVE_MODEL": "none:None",
            "SERVE_CHECKPOINTS": "/srv/envserve/checkpoints",
        }
        return self.machine.run(INTERPRETER, "-m", "envtool", "deploy", *arguments, user=USER, env=env)

    def ask(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def show(self, *names: str) -> dict[str, str]:
        return self.machine.show("envserve.service", *names)

    def main(self) -> int:
        return int(self.show("MainPID")["MainPID"])

    def find_port(self) -> None:
        said = self.machine.run("cat", PLACE / "run" / f"master.{self.main()}")
        self.port = int(json.loads(said)["listeners"][0].rpartition(":")[2])

    def kill(self, number: signal.Signals, *pids: int) -> None:
        self.machine.run("kill", f"-{number.name[3:]}", *pids)

    def is_active_after(self, restarts: int) -> bool:
        found = self.show("ActiveState", "NRestarts")
        return found == {"ActiveState": "active", "NRestarts": str(restarts)}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    # Not a directory of pytest's, which every other pytest of this user closes to others when it starts.
    with tempfile.TemporaryDirectory(prefix="envtool-") as home, Machine(Path(home)) as inside:
        directory = Path(home)
        directory.chmod(0o755)  # the service's user reads the channel
        for name, place in (("python", sys.base_prefix), ("site", sysconfig.get_path("purelib")), ("checkout", ROOT)):
            inside.run("mkdir", f"/srv/{name}")
            inside.run("mount", "--bind", place, f"/srv/{name}")
        inside.run("install", "-d", "-o", USER, "/srv/home", PLACE, PLACE / "app")
        inside.write(PLACE / "app/word_app.py", APP.replace("VERSION", "c0"))
        inside.write(PLACE / "app/probing_app.py", PROBES)
        inside.write(PLACE / "app/serve.toml", "# c0")
        found = Service(inside, directory)
        found.apply("r0")
        # There is no journal in this machine.
        settings = "[Service]\nStandardOutput=append:/srv/log\nStandardError=append:/srv/log\n"
        for each in (
            "SERVE_MODEL=none:None",
            "SERVE_BIND=127.0.0.1:0",
            "SERVE_WORKERS=1",
            f"SERVE_CHECKPOINTS={PLACE}/checkpoints",
        ):
            settings += f"Environment={each}\n"
        with inside.unit("envserve.service", rendered(), settings):
            inside.systemctl("start", "envserve")
            found.find_port()
            yield found
            print(inside.run("cat", "/srv/log")[-8000:])
        assert found.show("ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}


def test_it_is_started_when_it_listens(service: Service) -> None:
    assert service.show("ActiveState", "NRestarts", "StatusText")["ActiveState"] == "active"
    assert service.ask("/").startswith("r0 r0 ")


def test_what_it_may_do(service: Service) -> None:
    found = json.loads(service.ask("/try"))
    assert found["Uid"] != "0"
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 0
    allowed = {name for name, answer in found.items() if answer == "done"}
    assert allowed == {"write run", "write store", "write tmp"}
    assert not Path("/tmp/probe").exists()


def test_a_hand_over_is_no_restart(service: Service) -> None:
    before = service.main()
    with Load(service.port) as load:
        load.wait_for("r0")
        service.apply("r1")
        load.wait_for("r1")
        # Longer than systemd waits for a sign of life.
        time.sleep(5)
    assert load.failures == []
    assert service.main() != before
    assert service.show("ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}


def test_what_dies_or_hangs_is_started_again(service: Service) -> None:
    restarts = int(service.show("NRestarts")["NRestarts"])
    service.kill(signal.SIGKILL, service.main())
    wait_for(lambda: service.is_active_after(restarts + 1))
    # A master that hangs says nothing to systemd any more.
    service.kill(signal.SIGSTOP, service.main())
    wait_for(lambda: service.is_active_after(restarts + 2))
    service.find_port()
    assert service.ask("/").split()[0] in ("r0", "r1")


@pytest.mark.nightly
def test_what_fails_again_and_again_stays_down(service: Service) -> None:
    service.machine.systemctl("stop", "envserve")
    text = service.machine.run("cat", PLACE / "start")
    service.machine.write(PLACE / "start", "#!/bin/sh\nexit 1\n")
    service.machine.run("sh", "-c", "systemctl start envserve || true")
    wait_for(lambda: service.show("ActiveState")["ActiveState"] == "failed")
    assert int(service.show("NRestarts")["NRestarts"]) == 5
    service.machine.write(PLACE / "start", text)
    service.machine.systemctl("reset-failed", "envserve")
    service.machine.systemctl("start", "envserve")
    service.find_port()
    assert service.ask("/").split()[0] in ("r0", "r1")
