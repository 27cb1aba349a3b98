"""The tutorials of servers do what they show, command by command, in both languages."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from etcd import Cluster, free_ports
from serving import ROOT, SUPPORT

pytestmark = pytest.mark.needs_torch
# Each with the ports that it shows, and whether it needs etcd.
PAGES = {
    "many-machines": (("8001", "8002"), True),
    "many-machines-ray": (("6379", "8000"), False),
    "team-server": (("8000",), False),
}
RAY = (
    pytest.mark.nightly,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no Ray: pip install 'envserve[ray]'"),
)
_ETCD = "http://127.0.0.1:2379"


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """The commands of a page, each with the lines that it shows of their output."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    parts = [part.rstrip("\n").split("\n") for block in blocks for part in re.split(r"(?m)^\$ ", block)[1:]]
    return [(command, shown) for command, *shown in parts]


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_have_the_same_commands(page):
    found = commands(ROOT / f"docs/tutorial/{page}.md")
    assert len(found) > 10
    assert found == commands(ROOT / f"docs/zh/tutorial/{page}.md")


@pytest.fixture
def etcd(tmp_path):
    """Starts an etcd, and gives its URL."""
    clusters = []

    def start():
        clusters.append(Cluster(tmp_path))
        clusters[0].wait()
        return clusters[0].clients[0]

    yield start
    for cluster in clusters:
        cluster.stop()


@pytest.fixture
def ray_environ():
    """The variables of a cluster of Ray, which is ended with the test."""
    import ray_cluster
    import ray_program

    scratch = tempfile.mkdtemp(prefix="ray")  # the paths of its sockets must be short
    try:
        yield {**ray_cluster.ENVIRON, "RAY_TMPDIR": scratch}
    finally:
        ray_program.stop(scratch)
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.mark.parametrize("page", [pytest.param(page, marks=RAY if "ray" in page else ()) for page in PAGES])
def test_the_page_works_to_its_last_line(page, tmp_path, etcd, request):
    if shutil.which("curl") is None:
        pytest.skip("no curl: apt-get install curl")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, module in (("python", ""), ("gunicorn", "-m gunicorn"), ("ray", f"{SUPPORT}/ray_program.py")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (programs / name).chmod(0o755)
    shown_ports, needs_etcd = PAGES[page]
    ports = dict(zip(shown_ports, map(str, free_ports(len(shown_ports)))))
    found = commands(ROOT / f"docs/tutorial/{page}.md")
    script = ["set -e", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for number, (command, _) in enumerate(found):
        script.append(f"echo '### {number}'")
        # etcd runs already, at a port of its own.
        script.append(":" if command.startswith("etcd ") else command)
    text = "\n".join(script)
    if needs_etcd:
        text = text.replace(_ETCD, etcd())
    for shown, port in ports.items():
        text = re.sub(rf"\b{shown}\b", port, text)
    ray = request.getfixturevalue("ray_environ") if "ray" in page else {}
    env = {**os.environ, **ray, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    if len(ports) == 1:
        env["SERVE_BIND"] = f"127.0.0.1:{ports[shown_ports[0]]}"
    done = subprocess.run(
        ["bash", "-c", text], cwd=tmp_path, env=env, text=True, stdout=-1, stderr=subprocess.STDOUT, timeout=500
    )
    logs = "".join(path.read_text()[-3000:] for path in tmp_path.glob("*/*.log"))
    assert done.returncode == 0, done.stdout + logs
    outputs = dict(re.findall(r"### (\d+)\n(.*?)(?=### |\Z)", done.stdout, re.DOTALL))
    for number, (command, shown) in enumerate(found):
        assert shown == [] or outputs[str(number)].lower().split("\n")[: len(shown)] == shown, (command, done.stdout)
    for number, (command, _) in enumerate(found):
        if command.endswith("serve fleet status"):
            assert '"b"' in outputs[str(number)]
