"""Releases that replace each other under real gunicorn, while clients ask without a pause."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from envtool.deploy import gunicorn_masters
from tests.functional.deploy.conftest import new_user
from tests.functional.deploy.serving import Load, Service, nginx, release, wait_for
from tests.functional.prefix.conftest import User


@pytest.fixture
def service(user: User) -> Iterator[Service]:
    found = Service(user)
    yield found
    found.end()


@dataclass(frozen=True)
class Replaced:
    """What was seen of releases that replaced each other.

    Args:
        count: How many releases there were.
        direct: What clients of gunicorn saw.
        proxied: What clients of nginx in front of it saw; None where there is no nginx.
        status: What envtool said at the end.
    """

    count: int
    direct: Load
    proxied: Load | None
    status: dict[str, Any]


def replace_releases(service: Service, count: int) -> Replaced:
    """Apply some releases, each after the one before it was seen, under clients of gunicorn and of nginx."""
    service.apply("r0")
    port = service.start()
    with contextlib.ExitStack() as stack:
        direct = stack.enter_context(Load(port))
        site = stack.enter_context(nginx(service.user.home / "nginx", port)) if shutil.which("nginx") else None
        proxied = stack.enter_context(Load(site)) if site else None
        loads = [each for each in (direct, proxied) if each is not None]
        for number in range(count + 1):
            if number:
                assert service.apply(f"r{number}")["changed"]
            # Nobody hears of the old release any more.
            before = [each.answers[f"r{number - 1}"] for each in loads]
            for load in loads:
                load.wait_for(f"r{number}")
            assert [each.answers[f"r{number - 1}"] for each in loads] == before
    return Replaced(count + 1, direct, proxied, service.status())


@pytest.fixture(scope="module")
def replaced() -> Iterator[Replaced]:
    with new_user() as user:
        service = Service(user)
        try:
            yield replace_releases(service, 2)
        finally:
            service.end()


def test_no_request_is_lost_and_no_answer_mixes_two_releases(replaced: Replaced) -> None:
    assert replaced.direct.failures == []
    assert list(replaced.direct.answers) == ["r0", "r1", "r2"]
    found = replaced.status
    assert found["is_well"]
    assert [each["digest"] == found["current"] for each in found["releases"]] == [False, False, True]
    assert [each["workers"] for each in found["running"]] == [2]


def test_no_request_is_lost_behind_nginx(replaced: Replaced) -> None:
    if replaced.proxied is None:
        pytest.skip("nginx is not on this machine")
    assert replaced.proxied.failures == []
    assert list(replaced.proxied.answers) == ["r0", "r1", "r2"]


@pytest.mark.nightly
@pytest.mark.parametrize("worker", ["gthread", "asgi"])
def test_no_request_is_lost_over_ten_releases(service: Service, worker: str) -> None:
    service.env["SERVE_WORKER"] = worker
    found = replace_releases(service, 10)
    # The worker that closes kept connections when it ends needs the nginx that asks again.
    loads = [found.direct, found.proxied] if worker == "gthread" else [found.proxied]
    for load in loads:
        if load is not None:
            assert load.failures == []
            assert list(load.answers) == [f"r{number}" for number in range(found.count)]
    assert len(found.status["releases"]) == 3
    assert len(list((service.root / "envs").iterdir())) == 3


def test_what_fails_is_not_seen_by_anybody(service: Service) -> None:
    first = service.apply("r0")["release"]
    with Load(service.start()) as load:
        second = service.apply("r1", options=("--keep", "1"))["release"]
        assert [each["digest"] for each in service.status()["releases"]] == [second]
        # Packed anew: another hash, another lock, the same files.
        assert service.apply("r1")["changed"] is False
        # It ends when it starts.
        error = service.apply("r2", "broken", code=3)["error"]
        assert "this release is broken" in error
        assert "hint: nothing was changed" in error
        # Its workers die, and gunicorn starts others, for ever. That is seen long before the time is over.
        patient = ("--timeout", "3600")
        error = service.apply("r2", "dies", code=3, options=patient)["error"]
        assert "failed its health check, its worker ended" in error
        assert "was sent SIGKILL!" in error
        error = service.apply("r2", "dies-later", code=3, options=patient)["error"]
        # Where all of them were ready for a moment at once, the old master is called back, which never ended.
        assert "does not take over: its workers die again and again" in error or "is current again" in error
        assert service.status()["current"] == second
        # It is well when it is tried out, and ill when it serves.
        error = service.apply("r3", "ill", code=3)["error"]
        assert f"hint: release {second} is current again" in error
        assert service.status()["current"] == second != first
        load.wait_for("r1")
    assert set(load.answers) == {"r0", "r1", "r3"}
    assert load.failures == []


def test_rolling_back_brings_code_settings_and_environment_back_as_one(service: Service) -> None:
    first = service.apply("r0")["release"]
    with Load(service.start()) as load:
        load.wait_for("r0")
        service.write_app("c1")
        second = service.apply("r1")
        load.wait_for("r1")
        # What is edited is not what is served, until it is applied; then it is a release of its own.
        service.write_app("c2")
        third = service.apply("r1")
        assert third["changed"]
        assert third["env_digest"] == second["env_digest"]
        wait_for(lambda: load.versions["c2"] >= 20)
        said = json.loads(service.envtool("rollback", service.root, "--json")[0])
        assert (said["release"], said["previous"]) == (second["release"], third["release"])
        assert service.status()["running"][0]["release"] == second["release"]
        before = load.versions["c1"]
        wait_for(lambda: load.versions["c1"] > before)
        # What was rolled back from is not what the next release would go back to.
        fourth = service.apply("r3")["release"]
        assert [each["digest"] for each in service.status()["releases"]] == [first, second["release"], fourth]
        before = load.versions["c0"]
        service.envtool("rollback", service.root, "--to", first[:10])
        wait_for(lambda: load.versions["c0"] > before)
    assert load.failures == []
    assert set(load.versions) == {"c0", "c1", "c2"}
    assert service.status()["current"] == first
    assert len(list(service.root.glob("app-*"))) == 3
    assert "before the current one" in service.envtool("rollback", service.root, code=3)[1]
    assert "no release begins with zz" in service.envtool("rollback", service.root, "--to", "zz", code=3)[1]


POINTS = {
    "trying out": lambda root: (root / "run/trial/gunicorn.pid").exists(),
    "switched": lambda root: '"is_retiring": false' in read(root / "run/handover.json"),
    "both run": lambda root: len(gunicorn_masters.masters(root / "run")) == 2,
    "retiring": lambda root: '"is_retiring": true' in read(root / "run/handover.json"),
}


def read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


@pytest.mark.parametrize(
    "names", [["both run", "retiring"], pytest.param([*POINTS], marks=pytest.mark.nightly)], ids=["two", "all"]
)
def test_an_apply_that_is_killed_is_settled_by_the_next(service: Service, names: list[str]) -> None:
    service.apply("r0")
    with Load(service.start()) as load:
        for number, name in enumerate(names, 1):
            is_there = POINTS[name]
            lock = service.lock(release(service.user.home / "channel", f"r{number}"))
            process = subprocess.Popen(
                [sys.executable, "-m", "envtool", "deploy", "apply", str(service.root), "-f", str(lock)],
                env={**service.user.env, **service.env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            wait_for(lambda is_there=is_there, process=process: is_there(service.root) or process.poll() is not None)
            assert process.poll() is None, (name, process.communicate()[0])
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            service.apply(f"r{number}")
            assert service.status()["is_well"], name
            assert not gunicorn_masters.masters(service.root / "run/trial"), name
            load.wait_for(f"r{number}")
    assert load.failures == []


def test_an_environment_that_is_not_listed_does_not_serve(service: Service) -> None:
    policy = service.user.home / "policy.toml"
    policy.write_text('[create]\nenv-digests = ["0"]')
    service.env["ENVSERVE_POLICY"] = str(policy)
    for _ in range(2):  # the second time it is there already
        assert "create.env-digests: " in service.apply("r0", code=3)["error"]
    assert not (service.root / "current").is_symlink()


def test_one_apply_at_a_time(service: Service) -> None:
    service.apply("r0")
    service.start()
    lock = service.lock(release(service.user.home / "channel", "r1"))
    applies = [service.user.start("deploy", "apply", service.root, "-f", lock, **service.env) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in applies]
    assert [each.returncode for each in applies] == [0, 0], said
    assert sum("nothing to do" in each for each in said) == 1, said
    assert any("another envtool is changing" in each for each in said)


class Systemd:
    """The socket that a unit of Type=notify is given, read as promptly as systemd does."""

    def __init__(self, address: Path) -> None:
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            self.said.append(self._socket.recv(4096).decode())


@pytest.mark.nightly  # a real systemd hears it in test_systemd.py
def test_systemd_always_knows_which_process_is_the_service(service: Service) -> None:
    service.apply("r0")
    address = service.user.home / "notify"
    systemd = Systemd(address)
    service.env.update(NOTIFY_SOCKET=str(address), WATCHDOG_USEC="2000000")
    service.start()
    assert wait_for(lambda: "WATCHDOG=1" in systemd.said)
    assert systemd.said[0].startswith("READY=1")
    pids = []
    for word in ("r1", "r2"):  # the first master was started by systemd, the second by the first
        systemd.said.clear()
        service.apply(word)
        pids.append(gunicorn_masters.masters(service.root / "run")[0].pid)
        assert wait_for(lambda: "WATCHDOG=1" in systemd.said)
        # The trial says nothing; the new master says READY=1 first, which systemd knows already, and then takes over.
        assert [each for each in systemd.said if each.startswith("MAINPID")] == [f"MAINPID={pids[-1]}"]
    assert len(set(pids)) == 2


def test_what_is_not_there(service: Service, tmp_path: Path) -> None:
    assert "there is no release yet" in service.envtool("status", service.root, code=1)[1]
    service.apply("r0")
    assert "nothing runs" in service.envtool("status", service.root, code=1)[1]
    out = service.envtool("status", service.root, "--json", code=1)[0]
    assert json.loads(out)["is_well"] is False
