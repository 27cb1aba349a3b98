"""The peers: what each needs, how it is started, and what its requests look like."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import swaps
from start import APPS, Start

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
Command = tuple[Sequence[str], Mapping[str, str]]


@dataclass(frozen=True)
class Peer:
    """One server of the comparison.

    Args:
        name: in tables.
        venv: the name of its environment; `None` for the interpreter that runs the benchmark.
        requirements: what pip installs there, beside torch, numpy and safetensors.
        command: arguments and environment.
        paths: where predictions of each format are asked for.
        is_v2: whether its JSON is the V2 protocol's.
        swap: has a running one serve other weights, which lie in `swapped_weights`; `None` where nothing can.
    """

    name: str
    venv: str | None
    requirements: tuple[str, ...]
    command: Callable[[Start], Command]
    paths: Mapping[str, str]
    is_v2: bool = False
    swap: Callable[[Start], None] | None = None


def _uvicorn(start: Start) -> Command:
    options = ["--workers", str(start.workers), "--no-access-log", "--log-level", "warning"]
    return [str(start.bin / "uvicorn"), "fastapi_app:app", "--port", str(start.port), *options], {}


def _granian(start: Start) -> Command:
    options = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(start.port), "--no-access-log"]
    return [str(start.bin / "granian"), *options, "--workers", str(start.workers), "fastapi_app:app"], {}


def _mosec(start: Start) -> Command:
    options = ["--address", "127.0.0.1", "--port", str(start.port), "--timeout", "60000", "--log-level", "warning"]
    return [str(start.bin / "python"), str(APPS / "mosec_app.py"), *options], {}


def _gthread(start: Start) -> Command:
    options = ["-k", "gthread", "-w", str(start.workers), "--threads", "8", "--keep-alive", "75"]
    return [str(start.bin / "gunicorn"), "flask_app:app", "-b", f"127.0.0.1:{start.port}", *options], {}


def _script(name: str) -> Callable[[Start], Command]:
    return lambda start: ([str(start.bin / "python"), str(APPS / name)], {})


def _bentoml(start: Start) -> Command:
    options = ["--port", str(start.port), "--host", "127.0.0.1", "--working-dir", str(APPS)]
    return [str(start.bin / "bentoml"), "serve", "bentoml_app:Service", *options], {
        "BENTOML_HOME": str(start.directory),
        "BENTOML_DO_NOT_TRACK": "1",
    }


def _mlserver(start: Start) -> Command:
    settings = {
        "http_port": start.port,
        "grpc_port": start.port + 1,
        "metrics_port": start.port + 2,
        "host": "127.0.0.1",
        "parallel_workers": start.workers if start.workers > 1 else 0,
        "use_structured_logging": False,
    }
    (start.directory / "settings.json").write_text(json.dumps(settings))
    swaps.write_mlserver_model(start, start.weights)
    return [str(start.bin / "mlserver"), "start", str(start.directory)], {"MLSERVER_LOGGING_LEVEL": "WARNING"}


def _torchserve(start: Start) -> Command:
    store = start.directory / "store"
    archive = store / "model"
    swaps.write_torchserve_archive(archive, start.weights, "1.0")
    config = {
        "inference_address": f"http://127.0.0.1:{start.port}",
        "management_address": f"http://127.0.0.1:{start.port + 1}",
        "metrics_address": f"http://127.0.0.1:{start.port + 2}",
        "default_workers_per_model": start.workers,
        "disable_token_authorization": "true",
        "enable_model_api": "true",
        "models": json.dumps({"model": {"1.0": {**_TORCHSERVE_MODEL, "minWorkers": start.workers}}}),
        "max_request_size": 64 * 1024 * 1024,
        "max_response_size": 64 * 1024 * 1024,
    }
    path = start.directory / "config.properties"
    path.write_text("".join(f"{key}={value}\n" for key, value in config.items()))
    options = ["--foreground", "--ncs", "--model-store", str(store), "--models", f"model={archive}"]
    return [str(start.bin / "torchserve"), "--start", "--ts-config", str(path), *options], {
        "TEMP": str(start.directory),
        "LOG_LOCATION": str(start.directory),
        "METRICS_LOCATION": str(start.directory),
    }


_TORCHSERVE_MODEL = {
    "defaultVersion": True,
    "marName": "model",
    "maxWorkers": 8,
    "batchSize": 16,
    "maxBatchDelay": 1,
    "responseTimeout": 120,
}


def _ours(worker: str) -> Callable[[Start], Command]:
    def command(start: Start) -> Command:
        checkpoints = start.directory / "checkpoints"
        checkpoints.mkdir()
        checkpoint = shutil.copy(start.weights / f"{start.model}.safetensors", checkpoints)
        Path(f"{checkpoint}.done").touch()
        environ = {
            "SERVE_MODEL": f"models:{start.model.capitalize()}",
            "SERVE_NAME": "model",
            "SERVE_CHECKPOINTS": str(checkpoints),
            "SERVE_STORE": str(start.directory / "store"),
            "SERVE_PYTHON_PATH": str(HERE),
            "SERVE_BIND": f"127.0.0.1:{start.port}",
            "SERVE_WORKERS": str(start.workers),
            "SERVE_WORKER": worker,
            "PYTHONPATH": str(ROOT),
        }
        return [
            str(start.bin / "python"),
            *("-m", "gunicorn", "-c", "python:serve.gunicorn_conf", "serve.wsgi:app"),
        ], environ

    return command


# uvicorn takes them where it finds them, in whatever server it is.
_FAST = ("uvloop", "httptools")
PLAIN = {"json": "/json", "binary": "/binary"}
V2 = "/v2/models/model/infer"
OURS = {"json": "/predict", "binary": V2}

PEERS = (
    Peer("envserve", None, (), _ours("asgi"), OURS, swap=swaps.publish),
    Peer("envserve, gthread", None, (), _ours("gthread"), OURS),
    Peer("FastAPI on uvicorn", "fastapi", ("fastapi", "uvicorn", "uvloop", "httptools", "orjson"), _uvicorn, PLAIN),
    Peer("FastAPI on granian", "granian", ("fastapi", "granian", "uvloop", "orjson"), _granian, PLAIN),
    Peer("mosec", "mosec", ("mosec",), _mosec, {"binary": "/inference"}),
    Peer("Flask on gthread", "flask", ("flask", "gunicorn"), _gthread, PLAIN),
    Peer("LitServe", "litserve", ("litserve", *_FAST), _script("litserve_app.py"), {"json": "/predict"}),
    Peer("BentoML", "bentoml", ("bentoml", *_FAST), _bentoml, {"json": "/json"}),
    Peer(
        "MLServer",
        "mlserver",
        ("mlserver", "uvloop<0.22"),  # its workers ask a newer one for a loop that is not there
        _mlserver,
        {"json": V2},
        is_v2=True,
        swap=swaps.reload_mlserver,
    ),
    Peer(
        "TorchServe",
        "torchserve",
        ("torchserve", "torch-model-archiver", "setuptools<81", "pyyaml"),  # its launcher imports pkg_resources
        _torchserve,
        {"json": "/predictions/model", "binary": "/predictions/model"},
        swap=swaps.register_at_torchserve,
    ),
    Peer(
        "Ray Serve",
        "ray",
        ("ray[serve]", *_FAST),
        _script("ray_app.py"),
        {"json": "/", "binary": "/"},
        swap=swaps.redeploy_ray,
    ),
)


def environment(start: Start) -> dict[str, str]:
    """What every peer finds in its environment: the model, one thread for each operation, and no network."""
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("SERVE_")},
        "BENCH_MODEL": start.model,
        "BENCH_WEIGHTS": str(start.weights),
        "BENCH_PORT": str(start.port),
        "BENCH_WORKERS": str(start.workers),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{APPS}{os.pathsep}{HERE}",
        "PATH": f"{start.bin}{os.pathsep}{os.environ['PATH']}",
    }
