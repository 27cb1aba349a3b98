"""Publishing to MLflow's registry: `mlflow:models:/NAME@ALIAS`.

The checkpoint becomes an artifact of a run, a version of the model is registered for it, then comes its marker, and the
alias last. Stopped in between, no alias was moved.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from serve.errors import PublishError
from serve.publishing.rank import Rank, WriteMarker
from serve.source import mlflow_registry
from serve.source.observation import MARKER_SUFFIX

_DIRECTORY = "envserve"
_SHORT_SHA256 = 12
_HINT = "check MLFLOW_TRACKING_URI, the credentials and the rights"


@contextlib.contextmanager
def explained(shown: str, hint: str) -> Iterator[None]:
    """Have what other people's packages raise about a place, which is named so, raised as a `PublishError`."""
    try:
        yield
    except PublishError:
        raise
    except Exception as error:  # a missing package, a transport's, each protocol's own
        # Not `message`, which some have too: beside it their texts have a status, an URL, a request's id.
        reason = str(error) or type(error).__name__
        raise PublishError(f"{shown}: {reason}", hint=getattr(error, "hint", None) or hint) from error


class MlflowTarget:
    """An alias of a registered model; raises `PublishError` where MLflow cannot open its registry."""

    def __init__(self, name: str, alias: str) -> None:
        self._name, self._alias = name, alias
        self.shown = f"models:/{name}"  # as messages name it
        with explained(self.shown, _HINT):
            self._client: Any = mlflow_registry.open_client()

    def put(
        self, source: Path, name: str, sha256: str, generation: int, write_marker: WriteMarker
    ) -> Mapping[str, Any]:
        """Register a checkpoint, as `RemotePlace.put`; after a `PublishError` the alias names what it did before."""
        rank = Rank(generation)
        write_marker(rank, {})
        with explained(self.shown, _HINT), tempfile.TemporaryDirectory(prefix="envserve-") as directory:
            run, is_own = self._open_run()
            run_id, place = run.info.run_id, f"{_DIRECTORY}/{sha256[:_SHORT_SHA256]}"
            named = Path(directory) / name
            named.symlink_to(source.absolute())
            self._client.log_artifact(run_id, str(named), place)
            version = self._register(f"{run.info.artifact_uri}/{place}", run_id)
            more = {"version": str(version), **mlflow_registry.describe(self._name, version, run_id)}
            marker = named.with_name(name + MARKER_SUFFIX)
            marker.write_bytes(write_marker(rank, {**more, "metrics": mlflow_registry.metrics_of(run)}))
            self._client.log_artifact(run_id, str(marker), place)
            self._client.set_registered_model_alias(self._name, self._alias, str(version))
            if is_own:
                self._client.set_terminated(run_id)
        note = f"version {version} of {self._name} is {self._alias}; its run is {run_id}"
        return {"checkpoint": f"{self.shown}/{version}", "version": str(version), "notes": (note,)}

    def _open_run(self) -> tuple[Any, bool]:
        """Return the run of the trainer, or a new one, and whether it is new."""
        run_id = mlflow_registry.active_run_id() or os.environ.get("MLFLOW_RUN_ID")
        if run_id:
            return self._client.get_run(run_id), False
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
        known = self._client.get_experiment_by_name(name) if name else None
        created = self._client.create_experiment(name) if name and known is None else None
        experiment = known.experiment_id if known else created or os.environ.get("MLFLOW_EXPERIMENT_ID", "0")
        return self._client.create_run(experiment), True

    def _register(self, artifacts: str, run_id: str) -> object:
        try:
            self._client.get_registered_model(self._name)
        except Exception as error:  # MLflow's own; which one it is, is in its code
            if getattr(error, "error_code", None) not in mlflow_registry.MISSING:
                raise
            self._client.create_registered_model(self._name)
        return self._client.create_model_version(self._name, artifacts, run_id).version
