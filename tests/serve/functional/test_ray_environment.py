"""A lock makes the interpreter of an actor, on a real raylet; Ray reads what is rendered for KubeRay. Nightly, as all
that needs Ray."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from serving import ROOT, SUPPORT

from envtool.lockfile.conda_lock_v1 import format_lockfile
from envtool.templates import find_kind, render
from tests.support.archives import PLACEHOLDER, Archive, File, lock_of, locked

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no Ray: pip install 'envserve[ray]'"),
]


@pytest.fixture
def home():
    # Not tmp_path, which is longer than the path of an environment may be.
    with tempfile.TemporaryDirectory(prefix="envtool-") as found:
        yield Path(found)


class Lock:
    """A lock of one package, whose `bin/python` is a script; and the digest of what it makes."""

    def __init__(self, home: Path, name: str, script: str) -> None:
        package = Archive(name, {"bin/python": File(f"#!/bin/sh\n{script}\n".encode(), 0o755, prefix="text")})
        self.path = home / f"{name}.yml"
        self.path.write_text(format_lockfile(lock_of(locked(package.write(home / "channel")))))
        argv = [sys.executable, "-m", "envtool", "create", "-n", name, "-f", str(self.path), "--json"]
        elsewhere = {**os.environ, "ENVTOOL_HOME": str(home / "elsewhere"), "PYTHONPATH": str(ROOT)}
        self.digest = json.loads(subprocess.run(argv, env=elsewhere, check=True, stdout=-1).stdout)["env_digest"]


@pytest.fixture
def ray(home, tmp_path):
    """Ray on one raylet whose agent has the plugin."""
    from ray_cluster import RayHosts

    before = dict(os.environ)
    hosts = RayHosts(tmp_path, tmp_path / "checkpoints")
    try:
        plugin = [{"class": "envtool.ray_plugin.LockPlugin"}]
        os.environ.update(RAY_RUNTIME_ENV_PLUGINS=json.dumps(plugin), ENVTOOL_HOME=str(home / "envtool"))
        hosts.add("a")
        hosts.ray.init(hosts.cluster.address, log_to_driver=False)
        yield hosts.ray
    finally:
        hosts.stop()
        os.environ.clear()
        os.environ.update(before)


def test_an_actor_runs_in_the_environment_of_its_lock_or_not_at_all(ray, home):
    # This Python, which says from which environment it was started.
    lock = Lock(home, "mine", f'STARTED_FROM={PLACEHOLDER} exec {sys.executable} "$@"')
    digest = lock.digest

    @ray.remote(num_cpus=0)
    class Teller:
        def tell(self):
            return os.environ.get("STARTED_FROM"), os.environ["ENVSERVE_ENV_DIGEST"]

    @ray.remote(num_cpus=0)
    def tell():
        return os.environ.get("STARTED_FROM")

    def make(stated, lock=lock):
        return {"envserve": {"lock": str(lock.path), **stated}}

    def ask(own=lock, **stated):
        return ray.get(tell.options(runtime_env=make(stated, own)).remote())

    teller = Teller.options(runtime_env=make({"digest": digest})).remote()
    prefix = Path(ray.get(teller.tell.remote())[0])
    assert prefix.parent == home / "envtool" / "envs"
    assert ray.get(teller.tell.remote()) == (str(prefix), digest)
    made = (prefix / "bin" / "python").stat().st_mtime_ns
    assert ask(digest=digest) == str(prefix)
    assert (prefix / "bin" / "python").stat().st_mtime_ns == made
    other = "0" * 64
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match=f"expected .* {other}, found {digest}"):
        ask(digest=other)
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="expected the keys lock and digest"):
        ask(digest=digest, prefix="/opt/env")
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="expected a path and 64 hexadecimal digits"):
        ask(digest=5)
    # Another lock that says it is this one changes nothing below what runs.
    later = Lock(home, "later", f'STARTED_FROM=later exec {sys.executable} "$@"')
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match=f"expected .* {digest}, found {later.digest}"):
        ask(later, digest=digest)
    assert (prefix / "bin" / "python").stat().st_mtime_ns == made
    # Nor does anything start where a file is another one.
    with (prefix / "bin" / "python").open("a") as script:
        script.write("# changed")
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match=f"expected .* {digest}, found"):
        ask(digest=digest, lock=str(lock.path.rename(home / "moved.yml")))
    old = Lock(home, "old", "echo Ray 2.0.0 0123 Python 3.8")
    with pytest.raises(
        ray.exceptions.RuntimeEnvSetupError, match=r"expected what this node has, Ray .*, found Ray 2\.0\.0"
    ):
        ask(old, digest=old.digest)


def test_ray_reads_the_rendered_configuration_of_a_rayservice(tmp_path, monkeypatch):
    """Which KubeRay hands to Ray as it is: the options are Ray's, and the deployment is the one that there is."""
    from ray._common.utils import import_attr
    from ray.serve.schema import ServeDeploySchema

    rendered = list(yaml.safe_load_all(render(find_kind("rayservice"), {"image": "registry.example/serve"})))
    stated = next(one for one in rendered if one["kind"] == "RayService")["spec"]["serveConfigV2"]
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(stated)).applications
    (deployment,) = application.deployments
    assert (deployment.num_replicas, deployment.max_replicas_per_node) == (2, 1)
    monkeypatch.setenv("SERVE_FLEET", f"ray:{tmp_path}/keeper")
    (tmp_path / "serve.toml").write_text(f'model = "affine:Affine"\ncheckpoints = "ck"\npython_path = ["{SUPPORT}"]\n')
    made = import_attr(application.import_path)({**application.args, "settings": str(tmp_path / "serve.toml")})
    assert made._bound_deployment.name == deployment.name
