"""The first minutes: `serve new`, `serve check`, `serve run`, and a model in a process of one's own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest
from serving import ROOT, wait_until
from warm import INTERPRETER

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.needs_torch

MODEL = """
import torch
class Net(torch.nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.layer = torch.nn.Linear(3, width)
    def forward(self, rows):
        return FACTOR * self.layer(rows)
FACTOR = 1
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


def save(project, value, width=2):
    """Weights as a trainer of `MODEL` saves them: an answer is three times the value."""
    state = {"layer.weight": torch.full((width, 3), float(value)), "layer.bias": torch.zeros(width)}
    torch.save({"state_dict": state}, project / "new.pt")
    (project / "new.pt").replace(project / "weights.pt")


def serve(*arguments, cwd):
    return INTERPRETER.run(["serve", *map(str, arguments)], cwd, {**os.environ, "PYTHONPATH": str(ROOT)})


@contextlib.contextmanager
def running(project, *arguments):
    """`serve run`: its port, its process, and a function that returns its log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "serve", "run", "model.py", *arguments, "--bind", f"127.0.0.1:{port}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "TMPDIR": str(project)}
    log = project / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=project, stdout=output, stderr=output, env=environment)
    try:
        wait_until(lambda: "Ctrl-C ends it" in log.read_text(), "the server", log.read_text)
        yield port, process, log.read_text
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def findings(project, *arguments):
    done = serve("check", *arguments, "--json", cwd=project)
    return done.returncode, {one["about"]: one for one in json.loads(done.stdout)}


def test_check_guesses_the_example_and_tries_out_all_that_a_server_would(project):
    save(project, 1)
    code, found = findings(project, "model.py", "--weights", "weights.pt")
    assert code == 0
    assert "float32[1, 3]" in found["example"]["text"]
    assert "[[0.0] * 3]" in found["example"]["hint"]
    assert 'took off "state_dict"' in found["weights"]["text"]
    assert found["outputs"]["text"] == "number[1, 2]"
    assert {found[about]["level"] for about in ("class", "memory", "batches", "time")} == {"ok"}


@pytest.mark.parametrize(
    ("arguments", "change", "expected"),
    [
        (["nowhere.py:Net"], "", "file not found"),
        (["model.py:Nett"], "", "Nett"),
        (["model.py:Net", "--arg", "width=4", "--weights", "weights.pt"], "", "layer.weight"),
        (["model.py:Net", "--arg", "wide=4"], "", "wide"),
        (["model.py"], "class Other: pass", "Net, Other"),
        (["model.py:Net", "--example", "[[1.0, 2.0]]"], "", "1x2"),
    ],
)
def test_check_names_what_is_wrong(project, arguments, change, expected):
    save(project, 1)
    with (project / "model.py").open("a") as file:
        file.write(change)
    done = serve("check", *arguments, "--json", cwd=project)
    problem = json.loads(done.stdout)[-1]
    assert (done.returncode, problem["level"]) == (1, "problem")
    assert expected in problem["text"] + str(problem["hint"])


def answer(port):
    body = json.dumps({"inputs": [[1, 1, 1]]}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", body, timeout=10) as response:
        return round(json.load(response)["outputs"][0][0])


def test_run_serves_new_weights_and_new_code_and_outlives_broken_code(project):
    save(project, 1)
    with running(project, "--weights", "weights.pt") as (port, process, log):
        assert answer(port) == 3
        save(project, 2)
        wait_until(lambda: answer(port) == 6, "the new weights", log)
        code = (project / "model.py").read_text()
        (project / "model.py").write_text(code + "broken(")
        wait_until(lambda: "SyntaxError" in log(), "the broken code", log)
        assert answer(port) == 6
        (project / "model.py").write_text(code.replace("FACTOR = 1", "FACTOR = 10"))
        wait_until(lambda: answer(port) == 60, "the new code", log)
    assert process.returncode == 0
    with pytest.raises(OSError, match="refused"):
        answer(port)
    assert not list(project.glob("envserve-run-*"))


@pytest.mark.parametrize("weights", [[], ["--weights", "weights.pt"]])
def test_run_follows_a_change_of_the_architecture(project, weights):
    save(project, 1)
    with running(project, *weights) as (port, _, log):
        assert outputs(port) == 2
        (project / "model.py").write_text(MODEL.replace("width=2", "width=5"))
        if weights:
            wait_until(lambda: "reload is given up" in log(), "the new code", log)
            assert outputs(port) == 2
            save(project, 1, width=5)
        wait_until(lambda: log().count("Ctrl-C ends it") == 2, "the server with it", log)
        assert outputs(port) == 5


def outputs(port):
    body = json.dumps({"inputs": [[1, 1, 1]]}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", body, timeout=10) as response:
        return len(json.load(response)["outputs"][0])


def test_new_makes_a_project_whose_own_test_passes(tmp_path):
    assert serve("new", "churn", cwd=tmp_path).returncode == 0
    assert serve("new", "churn", "--task", "text", cwd=tmp_path).returncode == 3  # nothing is written over
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=tmp_path / "churn", env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0
    assert "{{" not in "".join(path.read_text() for path in (tmp_path / "churn").rglob("*.yml"))


def test_a_hot_model_is_swapped_while_threads_use_it(project, tmp_path, monkeypatch):
    from serve import HotModel, publish
    from serve.errors import ModelError, NotLiveError

    # Under a name of its own: this process remembers it, and the examples' modules are called model.
    (project / "hot_net.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(project))
    options = {"store": str(tmp_path / "store"), "example_inputs": "float32[1, 3]", "poll_s": 0.05, "model_args": {}}
    with pytest.raises(NotLiveError):
        HotModel("hot_net:Net", tmp_path / "checkpoints", wait_s=0.3, **options)
    save(project, 1)
    publish(project / "weights.pt", tmp_path / "checkpoints", "1.safetensors")
    with HotModel("hot_net:Net", tmp_path / "checkpoints", **options) as model:
        seen, is_over = [], threading.Event()

        def ask():
            while not is_over.is_set():
                found = model.answer([[1, 1, 1]])
                seen.append((found.provenance["generation"], round(found.outputs[0][0])))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for generation in (2, 3):
            save(project, generation)
            publish(project / "weights.pt", tmp_path / "checkpoints", f"{generation}.safetensors")
            wait_until(lambda: seen[-1][0] == generation, f"generation {generation}")  # noqa: B023 - asked at once
        is_over.set()
        for thread in threads:
            thread.join()
        assert set(seen) == {(1, 3), (2, 6), (3, 9)}
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                model.predict([[1, 1, 1]])
            except NotLiveError:
                os.write(writing, b"refused")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reading, 20) == b"refused"

    class Local:
        pass

    with pytest.raises(ModelError, match="can be imported"):
        HotModel(Local, "checkpoints")


ODD = """
import torch
class Net(torch.nn.Module):
    example_inputs = EXAMPLE
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.steps = torch.nn.LSTM(1, 1)
"""
ODD_ONES = {
    "a number": ("0.5", "def forward(self, number): return self.layer(number.reshape(1, 1))"),
    "a packed sequence": (
        "[[0.1, 0.2], [0.3]]",
        "def inputs_to_tensors(self, several):\n"
        "        rows = [torch.tensor(one)[:, None] for one in several]\n"
        "        return torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)\n"
        "    def forward(self, packed): return self.steps(packed)[1][0][0]",
    ),
    "an object of its own": (
        "[1, 2]",
        "def inputs_to_tensors(self, rows): return type('Graph', (), {'rows': torch.tensor(rows).float()})()\n"
        "    def forward(self, graph): return self.layer(graph.rows[:, None])",
    ),
    "texts": (
        "['a', 'bc']",
        "def inputs_to_tensors(self, texts): return torch.tensor([[float(len(text))] for text in texts])\n"
        "    def forward(self, rows): return self.layer(rows)",
    ),
}


@pytest.mark.parametrize("kind", ODD_ONES)
def test_check_tries_out_whatever_a_module_takes(tmp_path, kind):
    example, methods = ODD_ONES[kind]
    (tmp_path / "model.py").write_text(f"{ODD.replace('EXAMPLE', example)}    {methods}\n")
    code, found = findings(tmp_path, "model.py:Net")
    assert (code, found["time"]["level"]) == (0, "ok"), found
