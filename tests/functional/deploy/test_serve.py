"""The server of this repository, handed over from one release to another while it predicts."""

from __future__ import annotations

import http.client
import importlib.util
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import safetensors.numpy

from serve.publishing.publish import publish
from tests.functional.deploy.serving import PATIENCE_S, Service, wait_for
from tests.functional.prefix.conftest import User

SUPPORT = Path(__file__).parents[2] / "serve/support"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not in this interpreter")


@pytest.fixture
def service(user: User) -> Iterator[Service]:
    found = Service(user)
    checkpoints = found.root / "checkpoints"
    checkpoints.mkdir()
    weights = user.home / "model.safetensors"
    state = {"layer.weight": numpy.ones((2, 4), "float32"), "layer.bias": numpy.zeros(2, "float32")}
    safetensors.numpy.save_file(state, str(weights))
    publish(weights, checkpoints, "model.safetensors", "1")
    found.env.update(SERVE_MODEL="affine:Affine", SERVE_PYTHON_PATH=str(SUPPORT), SERVE_CHECKPOINTS=str(checkpoints))
    found.env["SERVE_WORKERS"] = "1"
    found.app = "serve.wsgi:app"
    yield found
    found.end()


class Predictions:
    """A client that predicts without a pause, and notes which release answered with which model."""

    def __init__(self, port: int) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)

    def __enter__(self) -> Predictions:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask_on(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        body = json.dumps({"inputs": [[1.0, 2.0, 3.0, 4.0]]})
        while not self._stop.wait(0.005):
            try:
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read().decode()
                if answer.status != 200 or json.loads(text)["outputs"] != [[10.0, 10.0]]:
                    self.failures.append(f"{answer.status} {text}")
                self.seen[answer.headers["X-Env-Digest"], answer.headers["X-Model-SHA256"]] += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
        connection.close()


def test_predictions_go_on_from_one_release_to_the_next(service: Service) -> None:
    first = service.apply("r0")["env_digest"]
    with Predictions(service.start()) as predictions:
        wait_for(lambda: sum(predictions.seen.values()) > 10)
        second = service.apply("r1")["env_digest"]
        wait_for(lambda: any(second in digest for digest, _ in predictions.seen))
    assert predictions.failures == []
    assert [digest.rpartition(":")[2] for digest, _ in predictions.seen] == [first, second]
    assert len({sha256 for _, sha256 in predictions.seen}) == 1
    assert service.status()["is_well"]
