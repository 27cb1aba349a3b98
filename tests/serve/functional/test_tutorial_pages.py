"""The tutorials of servers do what they show, command by command; nightly from an empty home, on other Pythons."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from etcd import find_etcd, free_ports
from serving import ROOT, SUPPORT

from tests.support.pages import Terminal, commands
from tests.support.pythons import bare_environment, build_wheel, copy_clone, find_python, install

TUTORIALS = ROOT / "docs" / "tutorial"
# The oldest Python with the torch that our templates lock for it, and the newest.
TORCH = {"3.9": ("torch==1.12.1", "numpy<2"), "3.13": ("torch==2.13.0",)}
# The commands of first-swap.md that install; the other tutorials begin after them.
INSTALLING = 2


@pytest.fixture
def own_ports():
    """What makes the ports of a page others, so that tests can run beside each other."""
    if shutil.which("curl") is None:
        pytest.skip("no curl: apt-get install curl")
    first, second, third, etcd, peer, ray = map(str, free_ports(6))
    ports = {"8000": first, "8001": second, "8002": third, "2379": etcd, "6379": ray}
    urls = {"listen-client": etcd, "advertise-client": etcd, "listen-peer": peer, "initial-advertise-peer": peer}
    options = "".join(f" --{name}-urls http://127.0.0.1:{port}" for name, port in urls.items())

    def change(command):
        for shown, port in ports.items():
            for before in (":", "ask ", "port "):
                command = command.replace(f"{before}{shown}", f"{before}{port}")
        if command.startswith("serve run"):
            command += f" --bind 127.0.0.1:{first}"
        cluster = f" --initial-cluster default=http://127.0.0.1:{peer}"
        return command.replace("etcd --data-dir", f"etcd{options}{cluster} --data-dir")

    return first, change


def type_in(directory, env, own_ports, page, is_installed=False):
    (first, change), path = own_ports, env["PATH"]
    if "\n$ etcd " in (TUTORIALS / f"{page}.md").read_text("utf-8"):
        path += f":{Path(find_etcd()).parent}"

    def typed(command):
        return ":" if is_installed and command.startswith("pip install ") else change(command)

    return Terminal(directory, {**env, "SERVE_BIND": f"127.0.0.1:{first}", "PATH": path}, typed)


def follow_servers(terminal, page):
    found = terminal.follow(TUTORIALS / f"{page}.md")
    assert len(found) > 10
    for command, output in found:
        assert not command.endswith("serve fleet status") or '"b"' in output


@pytest.fixture
def checkout(tmp_path):
    """All variables of a shell whose programs are of this checkout; it begins beside `examples`."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, module in (("python", ""), ("gunicorn", "-m gunicorn"), ("ray", f"{SUPPORT}/ray_program.py")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (programs / name).chmod(0o755)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.mark.needs_torch
@pytest.mark.parametrize("page", ["many-machines", "team-server"])
def test_the_page_works_to_its_last_line(page, tmp_path, checkout, own_ports):
    with type_in(tmp_path, checkout, own_ports, page, is_installed=True) as terminal:
        follow_servers(terminal, page)


@pytest.mark.needs_torch
@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no Ray: pip install 'envserve[ray]'")
@pytest.mark.skipif(sys.version_info < (3, 10), reason="`python -m ray.serve.scripts` does nothing on Ray 2.51")
def test_the_page_of_ray_works_to_its_last_line(tmp_path, checkout, own_ports):
    page = "many-machines-ray"
    with of_ray(checkout) as env, type_in(tmp_path, env, own_ports, page, is_installed=True) as terminal:
        follow_servers(terminal, page)


@contextlib.contextmanager
def of_ray(variables):
    """All variables of a shell in which a cluster of Ray may be started; it is ended afterwards."""
    import ray_cluster
    import ray_program

    scratch = tempfile.mkdtemp(prefix="ray")  # the paths of its sockets must be short
    env = {**variables, **ray_cluster.ENVIRON, "RAY_TMPDIR": scratch}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        yield env
    finally:
        ray_program.stop(scratch)
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="module", params=TORCH)
def from_wheel(request, tmp_path_factory):
    """A Python's version, and the programs of an environment that has torch and our wheel."""
    python, place = find_python(request.param), tmp_path_factory.mktemp(f"of{request.param}")
    wheel = f"envserve[serve,fast] @ {build_wheel(place).as_uri()}"
    return request.param, install(python, place / "tools", wheel, "pytest", *TORCH[request.param])


@pytest.fixture(scope="module")
def newcomer(from_wheel, tmp_path_factory):
    """A clone in an empty home, where the lines of first-swap.md that install have been typed; and all variables."""
    version, _ = from_wheel  # whose packages can be had
    home = tmp_path_factory.mktemp("home")
    (home / "programs").mkdir()
    (home / "programs" / "python3").symlink_to(find_python(version))
    clone = copy_clone(home / "envserve")
    (home / "constraints").write_text("\n".join(TORCH[version]))
    env = {**bare_environment(home, home / "programs"), "PIP_CONSTRAINT": str(home / "constraints")}
    with Terminal(clone, env) as terminal:
        for command, shown in commands(TUTORIALS / "first-swap.md")[:INSTALLING]:
            terminal.type(command, shown)
    return clone, env


@pytest.mark.nightly
def test_first_model_on_other_pythons(from_wheel, tmp_path, own_ports):
    _, programs = from_wheel
    with type_in(tmp_path, bare_environment(tmp_path, programs), own_ports, "first-model") as terminal:
        found = terminal.follow(TUTORIALS / "first-model.md")
        assert len(found) == 11
        # What the README of the new project names, but for what the page has shown already.
        terminal.type("python train.py weights.safetensors --to checkpoints && python -m pytest -q", [])
        terminal.type("serve check --weights weights.safetensors", [])


@pytest.mark.nightly
def test_first_swap_on_other_pythons(newcomer, own_ports):
    clone, env = newcomer
    with type_in(clone, env, own_ports, "first-swap") as terminal:
        terminal.type(commands(TUTORIALS / "first-swap.md")[0][0], [])  # makes .venv once more, and activates it
        for command, shown in commands(TUTORIALS / "first-swap.md")[INSTALLING:]:
            terminal.type(command, shown)
        answers = set(next((clone / "examples/quickstart").glob("background-*-while")).read_text().splitlines())
        assert answers == {"200 1", "200 2"}


@pytest.mark.nightly
@pytest.mark.parametrize("page", ["many-machines", "team-server"])
def test_a_page_of_servers_on_other_pythons(newcomer, own_ports, page):
    clone, env = newcomer
    with type_in(clone, env, own_ports, page) as terminal:
        terminal.type(". .venv/bin/activate", [])
        follow_servers(terminal, page)


@pytest.mark.nightly
def test_the_page_of_ray_on_other_pythons(from_wheel, newcomer, own_ports):
    if from_wheel[0] == "3.9":
        pytest.skip("`python -m ray.serve.scripts` does nothing on Ray 2.51, the last one for Python 3.9")
    clone, env = newcomer
    with of_ray(env) as of_cluster:
        of_cluster["PYTHONPATH"] = str(SUPPORT)
        with type_in(clone, of_cluster, own_ports, "many-machines-ray") as terminal:
            terminal.type(". .venv/bin/activate", [])
            terminal.type("pip install -q -e '.[ray]' pytest", [])  # which the program below needs
            # Ray's own program would end the clusters of others on this machine, too.
            program = clone / ".venv" / "bin" / "ray"
            program.write_text(f'#!/bin/sh\nexec {program.with_name("python")} {SUPPORT}/ray_program.py "$@"\n')
            follow_servers(terminal, "many-machines-ray")
