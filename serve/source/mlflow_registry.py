"""The door to MLflow: the version of a registered model that an alias names, `mlflow:models:/NAME@ALIAS`.

Where the registry is, is set as for every other client of MLflow. What the alias names is the order: moved back, it is
followed back. A version that `publish` made has its marker beside its checkpoint. For any other one a manifest is
written here, without a sha256, as nobody has stated one."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from serve import durable_files
from serve.errors import ModelError
from serve.source.local import MARKER_LIMIT_BYTES, MARKER_TOO_LONG, Listed, LocalSource
from serve.source.observation import MARKER_SUFFIX, Identity, Observation

MISSING = frozenset(("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"))  # of a missing model or alias
# Which artifact is the checkpoint, where no marker tells: the first kind that there is.
_SUFFIXES = ((".safetensors",), (".pt", ".pth", ".ckpt", ".bin", ".pt2"))
_MOST_SHOWN = 5
# A client that waits for minutes keeps a worker from following its host; nothing but data goes to standard output.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_DISABLE_TELEMETRY": "true",
}  # fmt: skip


def open_client() -> Any:
    """Return MLflow's client of the registry that the environment names; raises `ModelError`."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient

        return MlflowClient()
    except Exception as error:  # ImportError, and what MLflow raises for registries that it cannot open
        hint = "install envserve with its extra [mlflow]; a registry in a database needs the package mlflow"
        raise ModelError(f"mlflow: {error}", hint) from error


def active_run_id() -> str | None:
    """Return the run that is under way in this process."""
    import mlflow

    run = mlflow.active_run()
    return str(run.info.run_id) if run is not None else None


def metrics_of(run: Any) -> dict[str, float]:
    """Return the finite metrics of a run."""
    return {str(name): value for name, value in run.data.metrics.items() if math.isfinite(value)}


class MlflowPlace(LocalSource):
    """What an alias names."""

    has_events = is_directory = False

    def __init__(self, path: Path, name: str, alias: str) -> None:
        super().__init__(path)
        self._name, self._alias = name, alias
        self._client: Any = None
        self._current: Any = None
        self._listed: Sequence[Listed] = ()
        self._known: Observation | None = None

    def list(self) -> Sequence[Listed]:
        """List the version that the alias names; nothing where there is no such alias."""
        if self._client is None:  # not before the fork
            self._client = open_client()
        try:
            self._current = self._client.get_model_version_by_alias(self._name, self._alias)
        except Exception as error:  # MLflow's own; which one it is, is in its code
            if getattr(error, "error_code", None) not in MISSING:
                raise
            return ()
        version = self._current
        number = hashlib.sha256(f"{version.name}/{version.version}/{version.run_id}".encode()).digest()
        created_ns = int(version.creation_timestamp) * 1_000_000
        listed = (Listed(self.path, Identity(0, int.from_bytes(number[:8], "big"), 0, created_ns)),)
        self._listed = self._listed if listed == self._listed else listed
        return self._listed

    def look_at(self, listed: Listed) -> Observation:
        """Look at the version's artifacts, once."""
        if self._known is None or self._known.marker != listed.marker or self._known.checkpoint is None:
            self._known = self._read(listed.marker, self._current)
        return self._known

    def _read(self, marker: Identity, version: Any) -> Observation:
        if version.status != "READY":
            return Observation(self.path, None, marker, b"")
        uri = f"models:/{self._name}/{version.version}"
        sizes = dict(_walk(uri, ""))
        marked = [name for name in sizes if name + MARKER_SUFFIX in sizes]
        kinds = [marked, *([name for name in sizes if name.endswith(suffixes)] for suffixes in _SUFFIXES)]
        found = next((kind for kind in kinds if kind), [])
        if len(found) != 1:
            shown = ", ".join(found[:_MOST_SHOWN]) or "none"
            problem = f"{uri}: expected one checkpoint among its artifacts, found {shown}"
            return Observation(self.path, None, marker, b"", problem)
        name, copy = found[0], partial(_copy, f"{uri}/{found[0]}")
        checkpoint = Identity(0, marker.inode, sizes[name], marker.mtime_ns)
        if not marked:
            created = datetime.fromtimestamp(version.creation_timestamp / 1000, timezone.utc)
            metrics = metrics_of(self._client.get_run(version.run_id)) if version.run_id else {}
            stated = {"version": str(version.version), "created": created.isoformat(), "metrics": metrics}
            text = json.dumps({**stated, **describe(self._name, version.version, version.run_id)}).encode()
        elif sizes[name + MARKER_SUFFIX] > MARKER_LIMIT_BYTES:
            return Observation(self.path, checkpoint, marker, b"", MARKER_TOO_LONG, copy=copy)
        else:
            with tempfile.TemporaryDirectory(prefix="envserve-") as directory:
                text = _download(f"{uri}/{name}{MARKER_SUFFIX}", Path(directory)).read_bytes()
        return Observation(self.path, checkpoint, marker, text, copy=copy)


def _copy(uri: str, target: Path) -> durable_files.Copied:
    """Copy an artifact, which nobody changes once it is registered; raises what MLflow does."""
    temporary = tempfile.TemporaryDirectory(dir=target.parent, suffix=".part")
    with temporary as directory, _download(uri, Path(directory)).open("rb") as reader:
        return durable_files.copy_hashed(reader.fileno(), target)


def describe(name: str, version: object, run_id: str | None) -> Mapping[str, object]:
    """Return what a manifest states about the registry."""
    return {"mlflow": {"model": name, "version": str(version), "run_id": run_id or None}}


def _walk(uri: str, within: str) -> Iterator[tuple[str, int]]:
    import mlflow.artifacts

    for entry in mlflow.artifacts.list_artifacts(artifact_uri=f"{uri}/{within}".rstrip("/")):
        if entry.is_dir:
            yield from _walk(uri, entry.path)
        else:
            yield entry.path, int(entry.file_size or 0)


def _download(uri: str, directory: Path) -> Path:
    import mlflow.artifacts

    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(directory)))
