"""Swaps on a CUDA device. Skipped, with the reason, where there is none."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import numpy
import pytest
import safetensors.numpy
from serving import Load, wait_until
from trainer import ROW, sha256_of

from serve.checkpoint.manifest import Manifest, Stored
from serve.checkpoint.provenance import Provenance
from serve.errors import MemoryShortError
from serve.model.slot import Generation, Slot
from serve.settings.settings import load_settings

pytestmark = [pytest.mark.gpu, pytest.mark.needs_torch]
torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip(f"torch {torch.__version__} finds no CUDA device", allow_module_level=True)

from serve.model.loader import ModelLoader  # noqa: E402

SUPPORT = Path(__file__).parents[1] / "support"
SWAPS = 100


def make_loader(tmp_path, slot, **environ):
    least = {"SERVE_MODEL": "affine:Affine", "SERVE_CHECKPOINTS": "ck", "SERVE_PYTHON_PATH": str(SUPPORT)}
    settings = load_settings({**least, "SERVE_DEVICE": "cuda:0", **environ}, tmp_path).find()
    return ModelLoader(settings, slot)


def swap(slot, loader, path, number):
    """What a committer does: load, make live, free what is not used any more."""
    loaded = loader.load(Stored(path, sha256_of(path), path.stat().st_size), Manifest())
    slot.swap(Generation(loaded.predictor, Provenance("m", "v", number, sha256_of(path), None), {}))
    for old in slot.take_drained():
        old.predictor.release()
    return loaded.predictor


@pytest.mark.parametrize("mode", ["availability", "resource"])
def test_memory_is_back_to_the_baseline_after_each_swap(tmp_path, trainer, mode):
    slot = Slot()
    loader = make_loader(tmp_path, slot, SERVE_MEMORY=mode)
    paths = [trainer.train(seed, f"{seed}.safetensors") for seed in (1, 2)]
    for number in (1, 2, 3):  # the first ones fill the caches of the libraries
        swap(slot, loader, paths[number % 2], number)
    baseline = torch.cuda.memory_allocated(0), torch.cuda.memory_reserved(0)
    for number in range(4, SWAPS + 4):
        path = paths[number % 2]
        predictor = swap(slot, loader, path, number)
        assert predictor.predict([ROW]) == [trainer.expected(sha256_of(path))]
        assert {parameter.device for parameter in predictor.module.parameters()} == {torch.device("cuda:0")}
        torch.cuda.empty_cache()
        assert (torch.cuda.memory_allocated(0), torch.cuda.memory_reserved(0)) == baseline, number


def test_what_would_not_fit_on_the_device_is_refused_beforehand(tmp_path, trainer):
    slot = Slot()
    loader = make_loader(tmp_path, slot)
    swap(slot, loader, trainer.train(1), 1)
    path = trainer.train(2)
    before = torch.cuda.memory_allocated(0)
    free_bytes, _ = torch.cuda.mem_get_info(0)
    # Two workers need it twice; the host may well have less, and then it is the host's memory that is short.
    huge = Stored(path, sha256_of(path), free_bytes)
    with pytest.raises(MemoryShortError, match="MiB"):
        loader.load(huge, Manifest())
    assert torch.cuda.memory_allocated(0) == before
    assert slot.live.provenance.generation == 1


def gpu_processes():
    shown = subprocess.run(
        ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {int(pid) for pid in re.findall(r"\d+", shown.stdout)}


def test_two_workers_on_one_device_and_no_cuda_in_the_master(start_server, trainer):
    trainer.publish(1)
    server = start_server(device="cuda:0")
    server.wait_live(1)
    trainer.publish(2)
    server.wait_live(2)
    assert "libcuda" not in Path(f"/proc/{server.process.pid}/maps").read_text()
    assert server.process.pid not in gpu_processes()
    assert all("libcuda" in Path(f"/proc/{pid}/maps").read_text() for pid in server.workers())


def latencies(load, since):
    return sorted(seconds for kept in load.seconds for at, seconds in kept if at >= since)


class TimedLoad(Load):
    """Remembers how long each answer took."""

    def __enter__(self):
        self.seconds = [[] for _ in range(self.threads)]
        return super().__enter__()

    def _send(self, index):
        client = self.server.client()
        while not self._stopping.is_set():
            started = time.monotonic()
            self.replies[index].append(client.predict([self.row]))
            self.seconds[index].append((started, time.monotonic() - started))
        client.close()


def test_p99_during_swaps(start_server, trainer):
    """Bounded loosely: the figure belongs to the benchmark, a stall of a second to a test."""
    trainer.publish(1)
    server = start_server(device="cuda:0")
    server.wait_live(1)
    with TimedLoad(server, ROW) as load:
        wait_until(lambda: load.count > 500, "answers")
        since = time.monotonic()
        for seed in range(2, 12):
            trainer.publish(seed)
            server.wait_live(seed)
    during = latencies(load, since)
    assert during[int(len(during) * 0.99)] < 1.0
    assert {reply.status for kept in load.replies for reply in kept} == {200}


def test_buffers_go_to_the_device_too(tmp_path):
    """A buffer left on the host would fail at the first request."""
    slot = Slot()
    loader = make_loader(tmp_path, slot, SERVE_MODEL="affine:Masked")
    path = tmp_path / "masked.safetensors"
    state = {"scale": numpy.ones(2, "float32"), "mask": numpy.array([0, -numpy.inf], "float32")}
    safetensors.numpy.save_file(state, str(path))
    predictor = swap(slot, loader, path, 1)
    assert {buffer.device for buffer in predictor.module.buffers()} == {torch.device("cuda:0")}
    assert predictor.predict([[5, 6]]) == [[1.0, 0.0]]
