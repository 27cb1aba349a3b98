"""The tutorial of many machines does what it shows, command by command, in both languages, on a real etcd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from etcd import Cluster, free_ports
from serving import ROOT

pytestmark = pytest.mark.needs_torch
PAGE = "tutorial/many-machines.md"


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """The commands of a page, each with the lines that it shows of their output."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    parts = [part.rstrip("\n").split("\n") for block in blocks for part in re.split(r"(?m)^\$ ", block)[1:]]
    return [(command, shown) for command, *shown in parts]


def test_both_languages_have_the_same_commands():
    assert commands(ROOT / "docs" / PAGE) == commands(ROOT / "docs/zh" / PAGE)


def test_the_page_works_to_its_last_line(tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("no curl: apt-get install curl")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, module in (("python", ""), ("gunicorn", "-m gunicorn")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (programs / name).chmod(0o755)
    cluster = Cluster(tmp_path)
    ports = dict(zip(("8001", "8002"), map(str, free_ports(2))))
    found = commands(ROOT / "docs" / PAGE)
    script = ["set -e"]
    for number, (command, _) in enumerate(found):
        script.append(f"echo '### {number}'")
        # etcd runs already, at a port of its own.
        script.append(":" if command.startswith("etcd ") else command)
    text = "\n".join(script).replace("http://127.0.0.1:2379", cluster.clients[0])
    for shown, port in ports.items():
        text = text.replace(shown, port)
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    try:
        cluster.wait()
        done = subprocess.run(
            ["bash", "-c", text], cwd=tmp_path, env=env, text=True, stdout=-1, stderr=subprocess.STDOUT, timeout=500
        )
    finally:
        cluster.stop()
    logs = "".join(path.read_text()[-3000:] for path in tmp_path.glob("fleet/?.log"))
    assert done.returncode == 0, done.stdout + logs
    outputs = dict(re.findall(r"### (\d+)\n(.*?)(?=### |\Z)", done.stdout, re.DOTALL))
    for number, (command, shown) in enumerate(found):
        assert shown == [] or outputs[str(number)].lower().split("\n")[: len(shown)] == shown, (command, done.stdout)
    assert '"b"' in outputs[str(next(n for n, (command, _) in enumerate(found) if "fleet status" in command))]
