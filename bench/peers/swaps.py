"""How each server that can is told to serve other weights while it runs."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

from start import APPS, Start


def publish(start: Start) -> None:
    """Ours: the checkpoint, and its marker, which states the bytes as a trainer's does."""
    checkpoint = start.directory / "checkpoints" / "next.safetensors"
    shutil.copy(start.swapped_weights / f"{start.model}.safetensors", checkpoint)
    temporary = checkpoint.with_name(".marker")
    temporary.write_text(json.dumps({"sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest()}))
    temporary.replace(f"{checkpoint}.done")


def write_mlserver_model(start: Start, weights: Path) -> None:
    """Write the settings that name a model's weights."""
    model = {"name": "model", "implementation": "mlserver_app.Runtime", "parameters": {"uri": str(weights)}}
    (start.directory / "model-settings.json").write_text(json.dumps(model))


def reload_mlserver(start: Start) -> None:
    """MLServer: other settings, and the repository's order to load."""
    write_mlserver_model(start, start.swapped_weights)
    _send("POST", f"http://127.0.0.1:{start.port}/v2/repository/models/model/load")


def write_torchserve_archive(archive: Path, weights: Path, version: str) -> None:
    """Write an unpacked archive; its handler reads the path of the weights."""
    (archive / "MAR-INF").mkdir(parents=True)
    shutil.copy(APPS / "torchserve_app.py", archive)
    (archive / "weights").write_text(str(weights))
    model = {"modelName": "model", "modelVersion": version, "handler": "torchserve_app.py"}
    manifest = {"runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    (archive / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))


def register_at_torchserve(start: Start) -> None:
    """TorchServe: a second version with its workers, which then becomes the default, and the first is removed."""
    archive = start.directory / "store" / "next"
    write_torchserve_archive(archive, start.swapped_weights, "2.0")
    wanted = {"url": archive.name, "initial_workers": start.workers, "synchronous": "true"}
    wanted |= {"batch_size": 16, "max_batch_delay": 1}
    management = f"http://127.0.0.1:{start.port + 1}/models"
    _send("POST", f"{management}?{urlencode(wanted)}")
    _send("PUT", f"{management}/model/2.0/set-default")
    _send("DELETE", f"{management}/model/1.0")


def redeploy_ray(start: Start) -> None:
    """Ray Serve: its program deploys anew, which replaces one replica after another."""
    temporary = start.directory / "weights.tmp"
    temporary.write_text(str(start.swapped_weights))
    temporary.replace(start.directory / "weights")


def _send(method: str, url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, b"", method=method), timeout=120) as answer:
        answer.read()
