"""The recipes of docs/how-to/publish-from-training.md, run as they stand there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.numpy
import yaml
from beside import packages_beside
from serving import ROOT

from serve.source.local import LocalSource
from serve.source.observation import Known, Load, decide

pytestmark = pytest.mark.needs_torch
PAGE = (ROOT / "docs/how-to/publish-from-training.md").read_text()
BLOCKS = dict(re.findall(r"^## ([^\n]+)\n```\w+\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def decided(directory):
    """What a server would do with what is there, the first one first."""
    known = Known(served=None, served_order=None, first_seen_s=0.0)
    found = [(seen, decide(seen, known, 100.0, 0.0)) for seen in LocalSource(directory).observe()]
    assert all(isinstance(action, Load) for _, action in found)
    return [(seen.path.name, action.manifest) for seen, action in found]


def run(command, directory, **environ):
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("SERVE_", "PYTHON"))}
    environ = {"PYTHONPATH": str(ROOT), **environ}
    done = subprocess.run(command, cwd=directory, env={**outside, **environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_plain_loop(tmp_path):
    (tmp_path / "train.py").write_text(BLOCKS["PyTorch"])
    run([sys.executable, "train.py"], tmp_path, MODELS="models")
    found = decided(tmp_path / "models")
    assert [name for name, _ in found] == [f"epoch-{epoch}.safetensors" for epoch in (3, 2, 1)]
    assert [manifest.generation for _, manifest in found] == [3, 2, 1]
    assert found[0][1].metrics["loss"] > 0
    state = safetensors.numpy.load_file(str(tmp_path / "models" / "epoch-3.safetensors"))
    assert sorted(state) == ["0.bias", "0.weight", "2.bias", "2.weight"]


def shell_lines(kind):
    text = BLOCKS[kind]
    if kind == "GitHub Actions":
        (job,) = yaml.safe_load(text)["jobs"].values()
        return [step["run"] for step in job["steps"] if "run" in step]
    if kind == "GitLab":
        return yaml.safe_load(text)["publish"]["script"]
    return re.findall(r"sh '([^']+)'", text)


JOBS = {
    "GitHub Actions": ({"GITHUB_RUN_NUMBER": "7", "GITHUB_SHA": "0a1b2c"}, "github-workflows"),
    "GitLab": ({"CI_PIPELINE_IID": "7", "CI_COMMIT_SHA": "0a1b2c"}, "gitlab-ci"),
    "Jenkins": ({"BUILD_NUMBER": "7", "GIT_COMMIT": "0a1b2c"}, None),
}


@pytest.mark.parametrize("kind", JOBS)
def test_a_job(tmp_path, kind):
    """Its shell lines, one after the other, with the packages of this interpreter instead of those of an index."""
    variables, schema = JOBS[kind]
    for name in ("train.py", "model.py"):
        shutil.copy(ROOT / "examples" / "quickstart" / name, tmp_path)
    (tmp_path / "requirements.txt").write_text("safetensors\n")
    site = next(path for path in sys.path if path.endswith("site-packages"))
    environ = {**variables, "MODELS": "models", "PIP_NO_INDEX": "1", "WORKSPACE_TMP": "tmp"}
    environ["PYTHONPATH"] = f"{ROOT}:{site}"
    environ["PATH"] = f"{tmp_path}/tmp/python/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    for line in shell_lines(kind):
        run(["bash", "-ec", line], tmp_path, **environ)
    ((name, manifest),) = decided(tmp_path / "models")
    assert (name, manifest.version, manifest.generation) == ("model-7.safetensors", "0a1b2c", 7)
    if schema and importlib.util.find_spec("check_jsonschema"):
        (tmp_path / "job.yml").write_text(BLOCKS[kind])
        check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", "job.yml"]
        run(check, tmp_path)


LIGHTNING = """
import os, torch
class Module(pytorch_lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model, self.other = torch.nn.Linear(4, 2), torch.nn.Linear(1, 1)
    def training_step(self, batch, _):
        loss = self.model(batch).square().mean()
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), 0.1)
trainer = pytorch_lightning.Trainer(
    max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    callbacks=[Publish(os.environ["MODELS"])],
)
trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=4))
"""
HUGGING_FACE = """
import os, torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
config = BertConfig(vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
rows = [{"input_ids": torch.arange(4), "labels": torch.tensor(at % 2)} for at in range(4)]
options = dict(per_device_train_batch_size=2, save_strategy="epoch", report_to=[], logging_strategy="epoch")
arguments = TrainingArguments("out", num_train_epochs=2, use_cpu=True, disable_tqdm=True, **options)
model = BertForSequenceClassification(config)
trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[Publish(os.environ["MODELS"])])
trainer.train()
"""
# All that these need but torch, which the interpreter of the tests has.
NEEDED = ["fsspec[http]", "huggingface-hub", "lightning-utilities", "numpy", "packaging", "psutil", "pyyaml", "regex"]
NEEDED += ["requests", "safetensors", "tokenizers", "tqdm", "typer"]
CALLBACKS = {"Lightning": (LIGHTNING, "loss"), "Hugging Face Trainer": (HUGGING_FACE, "loss")}


@pytest.mark.nightly
@pytest.mark.skipif(sys.version_info < (3, 10), reason="those of Python 3.9 want a later torch than 1.12")
@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_callback(tmp_path, kind):
    code, metric = CALLBACKS[kind]
    environ = packages_beside(tmp_path, NEEDED, ["accelerate", "pytorch-lightning", "torchmetrics", "transformers"])
    (tmp_path / "train.py").write_text(BLOCKS[kind] + code)
    run([sys.executable, "train.py"], tmp_path, MODELS="models", **environ)
    found = decided(tmp_path / "models")
    assert [(name, manifest.generation) for name, manifest in found] == [
        ("step-4.safetensors", 4),
        ("step-2.safetensors", 2),
    ]
    assert metric in found[0][1].metrics
    state = safetensors.numpy.load_file(str(tmp_path / "models" / "step-4.safetensors"))
    assert sorted(state) == ["bias", "weight"] if kind == "Lightning" else "classifier.weight" in state
    assert "optimizer" not in json.dumps(sorted(state))
