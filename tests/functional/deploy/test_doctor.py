"""`envtool doctor` on this machine, with things that are truly wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.functional.deploy.conftest import run_envtool
from tests.functional.prefix.conftest import User
from tests.support.archives import Archive, File, locked
from tests.support.mirror_answers import status
from tests.support.mirror_simulator import MirrorSimulator, closed_port_url

# What may be set where the tests run, and what they decide themselves.
PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
CLEAN = dict.fromkeys((*PROXIES, "ENVTOOL_MIRRORS", "CONDARC"), "")


def findings(user: User, *arguments: object, code: int = 0, **env: str) -> list[tuple[str, str, str]]:
    out, _ = run_envtool(user, user.home, "doctor", "--json", *arguments, code=code, **{**CLEAN, **env})
    return [(finding["severity"], finding["check"], finding["message"]) for finding in json.loads(out)["findings"]]


def kinds(found: list[tuple[str, str, str]]) -> set[tuple[str, str]]:
    return {(severity, check) for severity, check, _ in found}


def test_this_machine_without_a_lock(user: User) -> None:
    found = findings(user, "--offline")
    assert ("warning", "python") in kinds(found)  # the tests run with PYTHONPATH
    assert not {check for severity, check, _ in found if severity == "error"}
    out, err = run_envtool(user, user.home, "doctor", "--offline", **CLEAN)
    assert "PYTHONPATH is set" in out
    assert "hint: " in out
    assert "0 errors" in err


def test_what_the_environment_says(user: User) -> None:
    (user.home / ".condarc").write_text("ssl_verify: false\npip_interop_enabled: true\n")
    proxy = closed_port_url().rstrip("/")
    bad = {"https_proxy": proxy, "http_proxy": "nonsense", "SSL_CERT_FILE": "/not/there", "no_proxy": "localhost"}
    found = findings(user, code=1, **bad)
    assert kinds(found) >= {("error", "proxy"), ("error", "certificates"), ("warning", "conda")}
    messages = " ".join(message for _, _, message in found)
    assert "https_proxy cannot be used: 127.0.0.1:" in messages
    assert "http_proxy cannot be used: it is no URL" in messages
    assert ("error", "proxy") not in kinds(findings(user, "--offline", code=1, **bad))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return Archive("tool", {"share/tool": File(b"tool")}).write(tmp_path)


def test_the_channels_of_the_lock_and_the_clock(user: User, archive: Path) -> None:
    package = locked(archive)
    with MirrorSimulator() as mirror:
        mirror.put("channel/linux-64/repodata.json", b"{}")
        url = mirror.put(f"channel/linux-64/{archive.name}", archive)
        lock = user.write_lock(type(package)(**{**vars(package), "url": url}))
        assert not kinds(findings(user, "-f", lock)) & {("error", "network"), ("error", "clock"), ("warning", "clock")}
        mirror.answer("*", then=status(503))
        found = findings(user, "-f", lock, code=1)
        assert ("error", "network") in kinds(found)
        assert "HTTP 503" in " ".join(message for _, check, message in found if check == "network")
        assert ("error", "network") not in kinds(findings(user, "-f", lock, "--offline"))


def test_what_a_lock_needs_and_this_machine_has_not(user: User, archive: Path) -> None:
    package = locked(archive)
    needs = {"__glibc": ">=99"}
    lock = user.write_lock(type(package)(**{**vars(package), "dependencies": needs}))
    found = findings(user, "-f", lock, "--offline", code=1)
    assert ("error", "glibc") in kinds(found)


def test_the_lock_says_how_much_room_is_needed(user: User, archive: Path) -> None:
    package = locked(archive)
    missing = {"url": "https://c.example/linux-64/tool-1.0-0.conda", "sha256": "0" * 64, "size_bytes": 10**15}
    lock = user.write_lock(type(package)(**{**vars(package), **missing}))
    found = findings(user, "-f", lock, "--offline", code=1)
    assert {("error", "disk"), ("warning", "disk")} <= kinds(found)
    assert "about 1000000.0 GB are needed" in " ".join(message for _, check, message in found if check == "disk")


def test_a_lock_that_is_named_has_to_be_there(user: User) -> None:
    _, err = run_envtool(user, user.home, "doctor", "-f", "other.yml", code=3)
    assert "other.yml not found" in err
