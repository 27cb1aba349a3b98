"""Real architectures, in every wrapper and under every header length, answer as a local forward pass, alone and not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = [pytest.mark.needs_torch, pytest.mark.both_workers]
torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from pickles import READS_SAFELY  # noqa: E402
from serving import SUPPORT  # noqa: E402

from serve.publishing.publish import Extras, publish  # noqa: E402

CACHE = Path(__file__).resolve().parents[3] / ".cache" / f"architectures-{sys.version_info.minor}"
NEW = ("torchvision==0.28.0", "timm==1.0.31", "transformers==4.57.6", "huggingface_hub==0.36.0", "tokenizers==0.22.1")
OLD = ("torchvision==0.13.1", "timm==0.9.16", "transformers==4.30.2", "huggingface_hub==0.23.5", "tokenizers==0.13.3")
REST = ("regex", "pyyaml", "filelock", "fsspec", "packaging", "tqdm", "requests", "charset-normalizer", "idna")
ALSO = ("urllib3", "certifi", "pillow", "typing_extensions")
TOGETHER = 8  # models of one server
# Of each library, and of each way to write a checkpoint; all of them run at night.
SAMPLE = ("timm convnext_atto", "torchvision mobilenet_v3_small", "transformers bert", "transformers gpt2")
RESIDUES = 32


@pytest.fixture(scope="module")
def kinds():
    """The names of the architectures, once they are installed."""
    if not (CACHE / "transformers").exists():
        wanted = NEW if sys.version_info >= (3, 10) else OLD
        argv = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", CACHE, *wanted, *REST, *ALSO]
        if subprocess.run(argv).returncode:
            pytest.skip("torchvision, timm and transformers could not be installed")
    os.environ["ARCHITECTURES"] = str(CACHE)
    import architectures

    yield sorted(architectures.REAL)
    del os.environ["ARCHITECTURES"]


def bundle(**prefixed):
    """A checkpoint as trainers write it: the weights under a key and a prefix, beside other things."""

    def write(state, path):
        (key, prefix), *_ = prefixed.items()
        state = {prefix + name: value for name, value in state.items()}
        torch.save(
            {key: state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}} if key != "_" else state, path
        )

    return write


WRAPPERS = [
    bundle(_="module."),
    bundle(_="_orig_mod."),
    bundle(state_dict="model."),
    bundle(model=""),
    bundle(net="module._orig_mod."),
    bundle(ema="module."),
    bundle(state_dict=""),
    bundle(module=""),
]


def write(number, module, directory):
    """Write a checkpoint: each second one in a wrapper, the others with one of all lengths that a header may have."""
    state = module.state_dict()
    if number % 2 and READS_SAFELY:
        path = directory / f"{number}.pt"
        WRAPPERS[number // 2 % len(WRAPPERS)](state, str(path))
        return path
    path, wanted = directory / f"{number}.safetensors", number // 2 % RESIDUES * 8
    for _ in range(2):
        pad = (wanted - int.from_bytes(path.read_bytes()[:8], "little")) % 256 if path.exists() else 0
        safetensors.torch.save_model(module, str(path), metadata={"pad": "x" * pad})
    assert int.from_bytes(path.read_bytes()[:8], "little") % 256 == wanted
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["sample", *(pytest.param(part, marks=pytest.mark.nightly) for part in range(10))])
def test_they_answer_as_a_local_forward_pass(start_server, tmp_path, kinds, part, monkeypatch):
    from architectures import Served

    monkeypatch.setattr("serving.PATIENCE_S", 600)  # eight models at once on a machine that does other work too

    part, chosen = (0, SAMPLE) if part == "sample" else (part, kinds[part * TOGETHER : (part + 1) * TOGETHER])
    lines, local = [], {}
    for place, kind in enumerate(chosen):
        torch.manual_seed(part)
        local[kind] = Served(kind).eval()
        path = write(part * TOGETHER + place, local[kind], tmp_path)
        publish(path, tmp_path / f"ck{place}", extras=Extras(convert=True))
        lines += [f"[models.m{place}]", 'model = "architectures:Served"', f'checkpoints = "ck{place}"']
        lines += [f"model_args = {{kind = {json.dumps(kind)}}}", "max_batch_delay_ms = 5"]
    (tmp_path / "models.toml").write_text("\n".join(lines))
    server = start_server(
        workers=1, config="models.toml", model=None, name=None, checkpoints=None, poll_s=1, warm_up_timeout_s=600
    )
    for count in range(len(chosen)):  # each in its own time
        server.wait_for_events("swapped", count + 1)
    for place, kind in enumerate(chosen):
        compare(server, f"/predict/m{place}", local[kind], kind)


def compare(server, path, module, kind):
    from architectures import rows_of

    wrong = []

    def ask(seed):
        rows, client = rows_of(kind, seed), server.client()
        with torch.no_grad():
            right = module(rows)
        for _ in range(2):
            reply = client.request("POST", path, json.dumps({"inputs": rows.tolist()}).encode())
            found = torch.tensor(reply.json["outputs"]) if reply.status == 200 else reply.body
            if reply.status != 200 or not torch.allclose(
                found, right, rtol=1e-5, atol=1e-5 * max(1.0, float(right.abs().max()))
            ):
                wrong.append((kind, seed, reply.status, reply.body[:200]))

    ask(1)
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.nightly
def test_there_are_enough_of_them(kinds):
    assert len(kinds) >= 60
    assert (SUPPORT / "architectures.py").exists()
