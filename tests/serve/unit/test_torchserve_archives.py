"""Model archives that torch-model-archiver wrote, carried over."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("model_archiver")
pytestmark = pytest.mark.needs_torch

from serve.cli import cli  # noqa: E402 - torch may be missing
from serve.development import check  # noqa: E402
from serve.development.project import import_archive  # noqa: E402
from serve.development.target import Target  # noqa: E402
from serve.errors import OperationError  # noqa: E402

NET = """
import torch
class ImageClassifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        self.head = torch.nn.Linear(4, 6)
    def forward(self, images):
        return self.head(self.layers(images))
"""
CONFIG = """
# as TorchServe writes it
inference_address=http://0.0.0.0:8085
management_address=http://0.0.0.0:8081
default_workers_per_model=3
models={\\
  "net": {"1.0": {"marName": "net.mar", "batchSize": 8, "maxBatchDelay": 5, "responseTimeout": 120}}\\
}
"""


@pytest.fixture
def archive(tmp_path):
    """A function that writes an archive with the real tool."""

    def write(handler, *arguments):
        command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "net", "-v", "1.0"]
        subprocess.run([*command, "--handler", handler, *map(str, arguments)], cwd=tmp_path, check=True)
        return tmp_path / "net.mar"

    return write


def eager(tmp_path, name="net.py"):
    (tmp_path / name).write_text(NET)
    scope = {}
    exec(NET, scope)
    module = scope["ImageClassifier"]()
    torch.save(module.state_dict(), tmp_path / "net.pth")
    return module, ["--model-file", tmp_path / name, "--serialized-file", tmp_path / "net.pth"]


@pytest.mark.parametrize("name", ["net.py", "model.py"])
def test_an_image_classifier_answers_as_its_module_does(tmp_path, archive, monkeypatch, name):
    module, files = eager(tmp_path, name)
    (tmp_path / "index_to_name.json").write_text(json.dumps({"0": ["n01", "cat"], "1": "dog"}))
    found = import_archive(
        archive("image_classifier", *files, "--extra-files", tmp_path / "index_to_name.json"), tmp_path / "made"
    )
    assert found.notes == ()
    monkeypatch.chdir(found.directory)
    monkeypatch.setattr(sys, "path", [str(found.directory), *sys.path])
    for loaded in ("model", "net", "archived_model"):
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    import model

    served = model.Model()
    served.load_state_dict(module.state_dict())
    pixels = torch.randint(0, 256, (300, 400, 3), dtype=torch.uint8).numpy()
    inputs = torch.tensor(served.image_to_inputs(pixels))
    assert inputs.shape == (1, 3, 224, 224)
    answer = served.tensors_to_outputs(served(inputs))[0]
    expected = torch.softmax(module(inputs), 1)[0]
    assert len(answer) == 5
    assert [answer[key] for key in ("cat", "dog") if key in answer] == pytest.approx(
        [float(expected[place]) for place, key in enumerate(("cat", "dog")) if key in answer]
    )
    checked = check.check(Target(None, {}), found.checkpoint)
    assert not [finding for finding in checked if finding.level == check.PROBLEM], checked
    for loaded in ("model", "net", "archived_model"):
        sys.modules.pop(loaded, None)


def test_a_scripted_module_with_a_handler_of_its_own_and_settings(tmp_path, archive):
    torch.jit.script(torch.nn.Linear(3, 2)).save(str(tmp_path / "net.pt"))
    (tmp_path / "own.py").write_text("def handle(data, context): ...\n")
    (tmp_path / "config.properties").write_text(CONFIG)
    made = archive(tmp_path / "own.py", "--serialized-file", tmp_path / "net.pt")
    done = CliRunner().invoke(
        cli,
        [
            "import",
            "torchserve",
            str(made),
            "--config",
            str(tmp_path / "config.properties"),
            "-o",
            str(tmp_path / "made"),
        ],
    )
    assert done.exit_code == 0, done.output
    assert "inputs_to_tensors" in done.output
    assert "management_address" in done.output
    stated = (tmp_path / "made" / "serve.toml").read_text().splitlines()
    for line in ('format = "torchscript"', 'bind = "0.0.0.0:8085"', "workers = 3", "max_batch_size = 8"):
        assert line in stated
    assert (tmp_path / "made" / "own.py").is_file()
    assert [path.name for path in (tmp_path / "made" / "checkpoints").glob("*.done")]


@pytest.mark.parametrize("key", ["serializedFile", "modelFile"])
def test_a_manifest_that_names_files_elsewhere_moves_none_of_them(tmp_path, key):
    outside = tmp_path / "weights.pt"
    torch.save({}, outside)
    stated = {"modelName": "net", "serializedFile": "net.pt", key: str(outside)}
    with zipfile.ZipFile(tmp_path / "net.mar", "w") as opened:
        opened.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": stated}))
        opened.writestr("net.pt", b"")
    with pytest.raises(OperationError, match="expected a model archive"):
        import_archive(tmp_path / "net.mar", tmp_path / "made")
    assert outside.is_file()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("line", ["job_queue_size=many", "models={", "models=[]", None])
def test_settings_that_cannot_be_read_are_a_known_error(tmp_path, archive, line):
    torch.jit.script(torch.nn.Linear(3, 2)).save(str(tmp_path / "net.pt"))
    if line is not None:
        (tmp_path / "config.properties").write_text(line)
    made = archive("base_handler", "--serialized-file", tmp_path / "net.pt")
    with pytest.raises(OperationError, match=r"config\.properties"):
        import_archive(made, tmp_path / "made", tmp_path / "config.properties")


@pytest.mark.parametrize("content", [b"", b"not an archive", {"a": "b"}, {"MAR-INF/MANIFEST.json": "[]"}])
def test_what_is_no_archive_is_refused_and_nothing_is_made(tmp_path, content):
    path = tmp_path / "net.mar"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as opened:
            for name, text in content.items():
                opened.writestr(name, text)
    with pytest.raises(OperationError, match="expected a model archive"):
        import_archive(path, tmp_path / "made")
    assert [one.name for one in tmp_path.iterdir()] == ["net.mar"]
