"""MLflow's registry, publishing to it and following an alias of it; judged by a real tracking server on the loopback.

The client runs in processes of its own, as MLflow brings some hundred megabytes that no other test has to import.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from beside import packages_beside
from trainer import ROW

from serve.errors import PublishError
from serve.publishing.publish import publish

ALIAS = "mlflow:models:/affine@champion"


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    """What makes MLflow importable here, behind the packages of this interpreter."""
    if sys.version_info < (3, 10):
        pytest.skip("the MLflow of Python 3.9 wants other packages than torch 1.12 does")
    return packages_beside(tmp_path_factory.mktemp("site"), ["mlflow>=3.1,<4"])


class Registry:
    """A tracking server with a database, and artifacts that it hands on itself."""

    def __init__(self, directory: Path, variables: dict[str, str]) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--backend-store-uri", f"sqlite:///{directory}/db", "--artifacts-destination", str(directory)]
        self.log = directory / "log"
        self.environ = {**os.environ, **variables, "MLFLOW_TRACKING_URI": self.url, "MLFLOW_DISABLE_TELEMETRY": "true"}
        self.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        with self.log.open("wb") as writer:
            command += ["--workers", "1"]
            self.process = subprocess.Popen(command, cwd=directory, env=self.environ, stdout=writer, stderr=writer)

    def wait(self) -> None:
        """Wait until it answers, which takes it minutes on a loaded machine that has no byte-code of it yet."""
        for _ in range(600):
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            time.sleep(0.5)
        raise AssertionError(self.log.read_text())

    def ask(self, method: str, what: str, **facts: object) -> dict:
        """Ask MLflow's own REST interface."""
        request = urllib.request.Request(f"{self.url}/api/2.0/mlflow/{what}", json.dumps(facts).encode(), method=method)
        request.add_header("Content-Type", "application/json")
        return json.loads(urllib.request.urlopen(request, timeout=60).read())

    def move(self, version: int) -> None:
        self.ask("POST", "registered-models/alias", name="affine", alias="champion", version=str(version))

    def run(self, *command: object, code: int = 0) -> str:
        argv = [sys.executable, *map(str, command)]
        done = subprocess.run(argv, env=self.environ, capture_output=True, text=True, timeout=500)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr


@pytest.fixture
def registry(tmp_path, variables):
    (tmp_path / "mlflow").mkdir()
    registry = Registry(tmp_path / "mlflow", variables)
    try:
        registry.wait()
        yield registry
    finally:
        registry.process.terminate()
        registry.process.wait(30)


# A training script as they are, which knows nothing of envserve: the checkpoint lies among other artifacts.
TRAINER = """
import sys, mlflow
from pathlib import Path
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.25)
    mlflow.log_metric("loss", float("nan"))
    mlflow.log_metric("accuracy", 0.75)
    mlflow.log_artifact(sys.argv[1], "trained/weights")
    mlflow.log_text("how it was trained", "trained/README.md")
    client = mlflow.MlflowClient()
    version = client.create_model_version("affine", run.info.artifact_uri + "/trained", run.info.run_id)
    client.set_registered_model_alias("affine", "champion", version.version)
"""


@pytest.mark.needs_torch
def test_a_server_follows_an_alias_wherever_it_moves(registry, trainer, start_server, tmp_path):
    def send(path, *more):
        return json.loads(registry.run("-m", "serve", "publish", path, "--to", ALIAS, "--json", *more))

    first = send(trainer.train(1, "one.safetensors"), "--metric", "accuracy=0.5")
    environment = [f"{name}={value}" for name, value in registry.environ.items() if os.environ.get(name) != value]
    server = start_server(checkpoints=ALIAS, prefix=["env", *environment], poll_s=0.3)
    client = server.client()

    def expect(generation, version, sha256):
        server.wait_live(generation)
        reply = client.predict([ROW])
        assert (reply.generation, reply.headers["x-model-version"], reply.sha256) == (generation, version, sha256)
        assert reply.json["outputs"] == [trainer.expected(sha256)]

    expect(1, "1", first["sha256"])
    second = send(trainer.train(2, "two.safetensors"), "--name", "other.safetensors")
    assert second["checkpoint"] == "models:/affine/2"
    expect(2, "2", second["sha256"])
    registry.move(1)
    expect(3, "1", first["sha256"])
    script = tmp_path / "train.py"
    script.write_text(TRAINER)
    third = trainer.train(3, "three.safetensors")
    registry.run(script, third)
    expect(4, "3", trainer.sha256(3))
    registry.ask("DELETE", "registered-models/alias", name="affine", alias="champion")
    (removed,) = server.wait_for_events("unserved", 1)
    assert removed["code"] == "removed"
    expect(4, "3", trainer.sha256(3))

    stated = [json.loads(line) for line in (tmp_path / "store" / "generations.jsonl").read_text().splitlines()]
    made, others = (json.loads(entry["marker"]) for entry in (stated[0], stated[3]))
    runs = registry.ask("POST", "runs/search", experiment_ids=["0"])["runs"]
    ended = {run["info"]["run_id"]: run["info"]["status"] for run in runs}
    assert made["mlflow"] == {"model": "affine", "version": "1", "run_id": made["mlflow"]["run_id"]}
    assert ended[made["mlflow"]["run_id"]] == ended[others["mlflow"]["run_id"]] == "FINISHED"
    assert (made["metrics"], others["metrics"]) == ({"accuracy": 0.5}, {"accuracy": 0.75})
    assert (made["sha256"], others.get("sha256")) == (first["sha256"], None)
    assert list((tmp_path / "store" / "incoming").iterdir()) == []

    history = json.loads(registry.run("-m", "serve", "history", "--json", "--store", tmp_path / "store"))
    assert [past["mlflow"]["version"] for past in history] == ["3", "1", "2", "1"]
    assert history[0]["metrics"] == {"accuracy": 0.75}

    # The registry goes: what is live stays, and the fault is told.
    registry.process.terminate()
    fault = server.wait_for_events("fault", 1)[0]
    assert "affine" in fault["reason"] or "127.0.0.1" in fault["reason"]
    expect(4, "3", trainer.sha256(3))
    refused = registry.run("-m", "serve", "publish", third, "--to", ALIAS, code=3)
    assert "hint: check MLFLOW_TRACKING_URI" in refused


ROUND = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from serve.publishing.publish import publish
from serve.source.observation import Known, decide
from serve.source.remote import make_place
from serve.store.checkpoint_store import Store
import mlflow
place = make_place(Path("mlflow:models:/affine@champion"))
assert list(place.list()) == []
with mlflow.start_run() as run:  # what trains publishes from its own run
    mlflow.log_metric("loss", 0.5)
    published = publish(Path(sys.argv[1]), "mlflow:models:/affine@champion")
(listed,) = place.list()
assert place.list() is place.list()
action = decide(place.look_at(listed), Known(None, None, 0.0), 100.0, 0.0)
assert action.manifest.rest["mlflow"]["run_id"] == run.info.run_id
assert action.manifest.metrics == {"loss": 0.5}
print(Store(Path(sys.argv[2])).admit(action).sha256, published.sha256)
"""


@pytest.mark.parametrize("kind", ["file", pytest.param("sqlite", marks=pytest.mark.nightly)])
def test_registries_without_a_server(variables, trainer, tmp_path, kind):
    uri = f"file:{tmp_path}/runs" if kind == "file" else f"sqlite:///{tmp_path}/db"
    environ = {**os.environ, **variables, "MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_FILE_STORE": "true"}
    script = tmp_path / "round.py"
    script.write_text(ROUND)
    command = [sys.executable, str(script), str(trainer.train(1)), str(tmp_path / "store")]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-2:] == [trainer.sha256(1)] * 2


@pytest.mark.parametrize("place", ["mlflow:affine@champion", "mlflow:models:/affine", "mlflow:models:/affine/3"])
def test_what_names_no_alias_is_an_error(trainer, place):
    with pytest.raises(PublishError, match="expected mlflow:models:/NAME@ALIAS"):
        publish(trainer.train(1), place)
