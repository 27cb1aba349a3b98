"""Credentials of any bytes reach the server as they are, at lock and at create, and are shown nowhere."""

from __future__ import annotations

import base64
import string
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from envtool.artifacts.download import fetch_packages
from envtool.channel import index
from envtool.console import ProgressDisplay
from envtool.errors import masked
from envtool.fetch.archive_cache import Cache
from envtool.lockfile.conda_lock_v1 import read_lockfile
from envtool.mirrors.mirrors import Mirrors
from tests.support.archives import Archive, File
from tests.support.wheels import write_wheel

SECRETS = {
    "base64": ("me@corp.example", "Zm9v/YmFy+x=="),
    "punctuation": ("user", string.punctuation),
    "unicode": ("jürgen", "пароль ключ 密码"),
    "percent": ("a%40b", "100%25%"),
}
NAMES = {"CUSER": 0, "CPASS": 1}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    expected = ""


class _Handler(SimpleHTTPRequestHandler):
    def send_head(self) -> Any:
        server: Any = self.server
        if self.headers.get("Authorization") == server.expected:
            return super().send_head()
        self.send_response(401)
        self.send_header("WWW-Authenticate", "Basic realm=x")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Server]:
    """A channel and a package index that want a user and a password."""
    root = tmp_path_factory.mktemp("private")
    channel = root / "channel"
    archives = [Archive("python", {"bin/x": File(b"x")}, "3.9.18"), Archive("pip", {"bin/p": File(b"p")})]
    index.write(channel, [f"linux-64/{archive.write(channel).name}" for archive in archives])
    (root / "files").mkdir()
    for name in ("indexed", "named"):
        wheel = write_wheel(root / "files", name, "1.0", {f"{name}.py": ""}, {})
        page = root / "simple" / name / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text(f'<a href="../../files/{wheel.name}">{wheel.name}</a>')

    def handler(*args: Any) -> _Handler:
        return _Handler(*args, directory=str(root))

    with _Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("kind", SECRETS)
def test_any_bytes_in_every_place_where_a_url_stands(
    envtool, write, private: _Server, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = SECRETS[kind]
    private.expected = "Basic " + base64.b64encode(":".join(secret).encode()).decode()
    host = f"127.0.0.1:{private.server_address[1]}"
    place, braced = f"http://$CUSER:$CPASS@{host}", f"http://${{CUSER}}:${{CPASS}}@{host}"
    write(
        f'channels: ["{place}/channel"]\nplatforms: [linux-64]\ndependencies:\n  - python=3.9\n  - pip:\n'
        f"      - --extra-index-url {braced}/simple\n      - indexed\n"
        f"      - named @ {place}/files/named-1.0-py3-none-any.whl\n"
    )
    variables = {name: secret[position] for name, position in NAMES.items()}
    answer = envtool("lock", **variables)
    assert answer.returncode == 0, answer.stderr
    text = (tmp_path / "conda-lock.yml").read_text()
    assert secret[1] not in text + answer.stderr
    lockfile = read_lockfile(tmp_path / "conda-lock.yml")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proven = fetch_packages(lockfile.packages, Cache(tmp_path / "cache"), ProgressDisplay())
    assert len(proven) == 4

    wrong = envtool("lock", "--upgrade", **{**variables, "CPASS": "other/secret@+=="})
    assert wrong.returncode == 3
    assert "other/secret@+==" not in wrong.stderr
    assert "other%2Fsecret" not in wrong.stderr


def test_without_the_variables_create_names_them(envtool, write, private: _Server, tmp_path: Path) -> None:
    private.expected = "Basic " + base64.b64encode(b"u:p@ss/word").decode()
    write(
        f'channels: ["http://$CUSER:$CPASS@127.0.0.1:{private.server_address[1]}/channel"]\nplatforms: [linux-64]\n'
        'dependencies: [python]\nvirtual-packages: {linux-64: {__glibc: "2.17"}}\n'
    )
    variables = {"CUSER": "u", "CPASS": "p@ss/word"}
    assert envtool("lock", **variables).returncode == 0
    home = {"ENVTOOL_HOME": str(tmp_path / "elsewhere")}  # another machine
    refused = envtool("create", "-p", tmp_path / "prefix", **home)
    assert refused.returncode == 3
    assert "CPASS, CUSER" in refused.stderr
    assert envtool("create", "-p", tmp_path / "prefix", **home, **variables).returncode == 0


def test_a_token_in_the_path(private: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from envtool.fetch import credentials

    monkeypatch.setenv("TOKEN", "a/b?c#d e")
    url = credentials.expand("https://host.example/t/$TOKEN/channel")
    assert url == "https://host.example/t/a%2Fb%3Fc%23d%20e/channel"
    assert "a/b?c" not in masked(f"{url} a/b?c#d e")
    monkeypatch.setenv("NAME", "conda")
    credentials.expand("https://$NAME:$TOKEN@host.example/")
    assert masked("conda") == "conda"
    given = credentials.with_variables(
        "https://host.example/channel/noarch/a-1-0.conda", ["https://host.example/t/$TOKEN/channel"]
    )
    assert given == "https://host.example/t/$TOKEN/channel/noarch/a-1-0.conda"
    assert Mirrors().for_url(given) == (given,)
