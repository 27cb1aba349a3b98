"""The jobs that lock anew, run as their servers run them: a git remote over HTTP, a forge on the loopback interface."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from envtool.templates import find_kind, render
from tests.functional.deploy.conftest import run_envtool, write_channel, write_environment
from tests.functional.prefix.conftest import User
from tests.support import git_server
from tests.support.archives import Archive, File

# `gh` as the job calls it, over the same answers as GitLab's.
GH = """\
import json, os, sys, urllib.request
def ask(method, path, **fields):
    data = json.dumps(fields).encode() if fields else None
    request = urllib.request.Request(os.environ["FORGE"] + path, data, {"PRIVATE-TOKEN": "secret"}, method=method)
    return json.load(urllib.request.urlopen(request))
verb, options = sys.argv[2], dict(zip(sys.argv[3::1], sys.argv[4::1]))
if verb == "list":
    print(len(ask("GET", "/merge_requests")))
else:
    body = open(options["--body-file"]).read()
    ask("POST" if verb == "create" else "PUT", "/merge_requests" + ("/7" if verb == "edit" else ""), description=body)
"""


class Forge(BaseHTTPRequestHandler):
    """The part of a forge that keeps requests to merge."""

    def do_GET(self) -> None:
        self._answer([{"iid": 7}] if self.server.opened else [])  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        self.server.opened.append(self._fields())  # type: ignore[attr-defined]
        self._answer({})

    def do_PUT(self) -> None:
        assert self.path.endswith("/7")
        self.server.opened[0] = self._fields()  # type: ignore[attr-defined]
        self._answer({})

    def _fields(self) -> dict[str, Any]:
        assert self.headers["PRIVATE-TOKEN"] == "secret"
        return dict(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, value: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def forge() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Forge) as server:
        server.opened = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def git(directory: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=directory, check=True, text=True, capture_output=True).stdout


def steps(kind: str) -> str:
    """The shell lines of a job, but for the installation of envtool."""
    job = yaml.safe_load(render(find_kind(kind), {"install": "envserve"}))
    if kind == "gitlab-lock":
        return "\n".join(job["lock anew"]["script"])
    runs = [step["run"] for step in job["jobs"]["lock"]["steps"] if "run" in step]
    return "\n".join(run for run in runs if "pip install" not in run)


@pytest.mark.parametrize("kind", ["github-lock", "gitlab-lock"])
def test_a_job_opens_a_request_and_renews_it(user: User, tmp_path: Path, forge: ThreadingHTTPServer, kind: str) -> None:
    channel = write_channel(tmp_path / "channel", [Archive("tool", {"x": File()})])
    source = user.home / "source"
    write_environment(source, channel, "tool")
    run_envtool(user, source, "lock")
    git(source, "init", "-qb", "main")
    git(source, "add", ".")
    git(source, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "first")
    remote = user.home / "remote/team/project.git"
    git(user.home, "clone", "-q", "--bare", str(source), str(remote))
    git(remote, "config", "http.receivepack", "true")
    programs = user.home / "bin"
    programs.mkdir()
    (user.home / "gh.py").write_text(GH)
    for name, argv in {"envtool": ["-m", "envtool"], "gh": [str(user.home / "gh.py")], "python": []}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *argv])} "$@"\n')
        (programs / name).chmod(0o755)

    def run() -> None:
        work = user.home / "work"
        subprocess.run(["rm", "-rf", str(work)], check=True)
        git(user.home, "clone", "-q", f"{base}/team/project.git", str(work))
        host, _, port = base.rpartition("/")[2].partition(":")
        api = f"http://127.0.0.1:{forge.server_address[1]}"
        env = {
            **user.env, "PATH": f"{programs}:{os.environ['PATH']}", "RUNNER_TEMP": str(user.home), "FORGE": api,
            "CI_API_V4_URL": f"{api}/api/v4", "CI_PROJECT_ID": "5", "CI_SERVER_PROTOCOL": "http",
            "CI_SERVER_HOST": host, "CI_SERVER_PORT": port, "CI_PROJECT_PATH": "team/project",
            "ENVTOOL_LOCK_TOKEN": "secret",
        }  # fmt: skip
        script = f"set -eo pipefail\n{steps(kind)}\n"
        done = subprocess.run(["bash", "-c", script], cwd=work, env=env, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr

    def proposed() -> str:
        return git(remote, "show", "envtool/lock:conda-lock.yml")

    opened: list[dict[str, Any]] = forge.opened  # type: ignore[attr-defined]
    with git_server.smart(user.home / "remote", []) as base:
        run()
        assert opened == []
        for version in ("2.0", "3.0"):
            write_channel(tmp_path / "channel", [Archive("tool", {"x": File()}, version=version)])
            run()
            assert f"version: '{version}'" in proposed() or f"version: {version}" in proposed()
            assert len(opened) == 1
            assert version in opened[0]["description"]
            assert "1.0" in opened[0]["description"]
    assert git(remote, "log", "--format=%s", "envtool/lock").splitlines() == ["Lock anew", "first"]
    assert git(remote, "log", "--format=%s", "main").splitlines() == ["first"]
