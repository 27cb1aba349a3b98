"""A channel over HTTP: caching headers byte for byte, tokens, and the clients that install from it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from envtool.lockfile.conda_lock_v1 import LockedPackage
from tests.functional.prefix.conftest import User, user
from tests.support.archives import Archive, File, locked

__all__ = ["user"]  # a fixture

QUERY = """
import asyncio, os, sys
from pathlib import Path
import rattler
from rattler.networking import Client, AuthenticationMiddleware
config = rattler.SourceConfig(sharded_enabled=sys.argv[3] == "sharded")
client = Client([AuthenticationMiddleware()])
gateway = rattler.Gateway(cache_dir=Path(sys.argv[2]), default_config=config, client=client)
async def main():
    found = await gateway.query([sys.argv[1]], ["linux-64", "noarch"], ["tool", "data"], recursive=False)
    print(sorted(record.file_name for records in found for record in records))
asyncio.run(main())
sys.stdout.flush()
os._exit(0)
"""


@dataclass(frozen=True)
class Served:
    url: str
    root: Path

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


def serving(user: User, root: Path, *options: object, **env: str) -> Iterator[Served]:
    process = user.start("channel", "serve", root, "--bind", "127.0.0.1:0", "--workers", "1", *options, **env)
    assert process.stdout is not None
    try:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        url = process.stdout.readline().strip()
        watchdog.cancel()
        assert url, process.communicate()[1]
        yield Served(url, root)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.fixture
def root(user: User, tmp_path: Path) -> Path:
    tool = Archive("tool", {"bin/tool": File(b"#!/bin/sh\n", 0o755), "share/big": File(os.urandom(300_000))})
    data = Archive("data", {"share/d": File(b"d")}, subdir="noarch", noarch="generic")
    paths = [tool.write(tmp_path), data.write(tmp_path)]
    user.run("channel", "add", user.home / "channel", *paths)
    user.run("channel", "index", user.home / "channel", "--shards")
    (user.home / "channel" / "secret").symlink_to("/etc/hostname")
    return user.home / "channel"


@pytest.fixture
def served(user: User, root: Path) -> Iterator[Served]:
    yield from serving(user, root)


def test_what_is_answered(served: Served) -> None:
    archive = "/linux-64/tool-1.0-h1_0.conda"
    content = (served.root / archive[1:]).read_bytes()
    status, headers, body = served.get(archive)
    assert (status, body, headers["content-length"]) == (200, content, str(len(content)))
    assert headers["cache-control"] == "public, max-age=86400"
    assert headers["accept-ranges"] == "bytes"
    assert "content-encoding" not in headers
    status, headers, body = served.get(archive, "HEAD")
    assert (status, body, headers["content-length"]) == (200, b"", str(len(content)))
    status, headers, body = served.get("/noarch/repodata.json")
    assert (headers["cache-control"], headers["content-type"]) == ("public, no-cache", "application/json")
    for path in ("/", "/linux-64", "/linux-64/", "/none", "/.envtool/lock", "/secret", "/%2e%2e/team.pem",
                 "/..%2f..%2fetc/hostname", "/linux-64/../../x", "/%00", "/" + "x" * 300):  # fmt: skip
        assert served.get(path)[0] in (404, 400), path
    status, headers, _ = served.get(archive, "DELETE")
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert (served.root / archive[1:]).exists()


def test_what_has_not_changed_is_not_sent_again(served: Served) -> None:
    for path in ("/noarch/repodata_shards.msgpack.zst", "/noarch/repodata.json.zst", "/linux-64/tool-1.0-h1_0.conda"):
        _, first, _ = served.get(path)
        for condition in ({"If_None_Match": first["etag"]}, {"If_Modified_Since": first["last-modified"]}):
            status, headers, body = served.get(path, **condition)
            assert (status, body) == (304, b"")
            # A client that gets a bare 304 forgets what it has.
            for name in ("etag", "last-modified", "cache-control", "date"):
                assert headers.get(name), name
            assert headers["etag"] == first["etag"]
        assert served.get(path, If_None_Match='"other"')[0] == 200
        target = served.root / path[1:]
        os.utime(target, ns=(0, target.stat().st_mtime_ns + 2_000_000_000))
        assert served.get(path, If_None_Match=first["etag"])[0] == 200


def test_ranges(served: Served) -> None:
    path = "/linux-64/tool-1.0-h1_0.conda"
    content = (served.root / path[1:]).read_bytes()
    status, headers, body = served.get(path, Range="bytes=1000-1999")
    assert (status, body) == (206, content[1000:2000])
    assert headers["content-range"] == f"bytes 1000-1999/{len(content)}"
    assert served.get(path, Range=f"bytes={len(content) - 5}-")[2] == content[-5:]
    assert served.get(path, Range="bytes=-7")[2] == content[-7:]
    status, headers, _ = served.get(path, Range=f"bytes={len(content)}-")
    assert (status, headers["content-range"]) == (416, f"bytes */{len(content)}")
    assert served.get(path, Range="bytes=0-9", If_Range='"other"')[0] == 200
    assert served.get(path, Range="bytes=0-9", If_Range=headers.get("etag") or served.get(path)[1]["etag"])[0] == 206


@pytest.mark.parametrize("kind", ["plain", "sharded"])
def test_py_rattler_reads_it_and_asks_again(served: Served, tmp_path: Path, kind: str) -> None:
    argv = [sys.executable, "-c", QUERY, served.url, str(tmp_path / "cache"), kind]
    expected = "['data-1.0-h1_0.conda', 'tool-1.0-h1_0.conda']\n"
    for _ in range(2):
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
        assert done.stdout == expected, done.stderr


def packages_of(served: Served, url: str) -> tuple[LockedPackage, ...]:
    archives = sorted(served.root.rglob("*.conda"))
    return tuple(locked(path, url=f"{url}{path.relative_to(served.root)}") for path in archives)


def test_create_installs_from_it(served: Served, user: User) -> None:
    user.write_lock(*packages_of(served, served.url))
    made = json.loads(user.run("create", "-p", user.home / "env", "--json").stdout)
    assert made["changed"]
    assert (user.home / "env" / "bin" / "tool").read_bytes() == b"#!/bin/sh\n"


def test_a_token_is_asked_for(user: User, root: Path) -> None:
    (user.home / "token").write_text("s3cret\n")
    for served in serving(user, root, "--token-file", user.home / "token"):
        path = "/noarch/repodata.json"
        status, headers, _ = served.get(path)
        assert (status, headers["www-authenticate"]) == (401, 'Basic realm="channel"')
        assert served.get(path, Authorization="Bearer wrong")[0] == 401
        assert served.get(f"/t/wrong{path}")[0] == 401
        status, headers, _ = served.get(path, Authorization="Bearer s3cret")
        assert (status, headers["cache-control"]) == (200, "private, no-cache")
        assert served.get(path, Authorization="Basic eDpzM2NyZXQ=")[0] == 200
        assert served.get(f"/t/s3cret{path}")[0] == 200
        user.write_lock(*packages_of(served, served.url))
        assert "401" in user.run("create", "-p", user.home / "env", code=3).stderr
        auth = {urlsplit(served.url).hostname or "": {"BearerToken": "s3cret"}}
        (user.home / "auth.json").write_text(json.dumps(auth))
        user.run("create", "-p", user.home / "env", RATTLER_AUTH_FILE=str(user.home / "auth.json"))


def test_what_is_no_channel_is_not_served(user: User) -> None:
    assert "is no channel" in user.run("channel", "serve", user.home, "--bind", "127.0.0.1:0", code=3).stderr


def test_a_conditional_answer_of_any_kind_has_a_body_of_its_length(served: Served) -> None:
    answers: list[Any] = [
        served.get("/noarch/repodata.json", Range=each) for each in ("bytes=0-0", "bytes=x", "items=1")
    ]
    assert all(len(body) == int(headers["content-length"]) for _, headers, body in answers)
