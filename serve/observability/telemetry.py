"""The operators' view of one worker: counts, events, the state of every model, orders.

Put together once for each worker, beside the models themselves, which know nothing of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Callable

from serve.errors import NotServedError
from serve.inference.shadow import Counts
from serve.metrics.collectors import memory_of, read_memory, read_model, unserved_s
from serve.metrics.metric_families import ModelLabel, Reading
from serve.metrics.totals import Traffic
from serve.observability.access_log import AccessLog
from serve.observability.spans import Spans
from serve.observability.status_page import MOST_SWAPS, Look
from serve.operations.operations import Operations, Status
from serve.settings.settings import SHADOW

if TYPE_CHECKING:
    from serve.http.drain import Drain
    from serve.inference.model_instance import ModelInstance
    from serve.metrics.worker_metrics import WorkerMetrics
    from serve.settings.settings import ServerSettings

_MOST_EVENTS = 400
# Asking the kernel takes a millisecond for each gigabyte; many open pages must not add up.
_MEMORY_AGE_S = 5.0


class Telemetry:
    """Sees all models of one worker; `instances`: by `NAME` for the default label and `NAME@LABEL` for the others."""

    def __init__(
        self,
        settings: ServerSettings,
        instances: Mapping[str, ModelInstance],
        drain: Drain,
        worker_metrics: WorkerMetrics,
    ) -> None:
        self._instances, self.drain, self.worker_metrics = instances, drain, worker_metrics
        self.access_log = AccessLog() if settings.access_log == "on" else None
        self.spans = Spans() if settings.traces == "otlp" else None
        self._operations: dict[str, Operations] = {}
        self._memory: tuple[float, dict[int, dict[str, int]]] = (-_MEMORY_AGE_S, {})

    @property
    def env_digest(self) -> str | None:
        """Of the environment that computes the answers."""
        return next((instance.env_digest for instance in self._instances.values()), None)

    def start(self, read_queued: Callable[[], int]) -> None:
        """Begin to count, in the worker."""
        models = [ModelLabel(instance.settings.name, instance.settings.label) for instance in self._instances.values()]
        outcomes = [field.name for field in fields(Counts)]
        self.worker_metrics.begin(models, {whose.model: outcomes for whose in models if whose.label == SHADOW})
        self.worker_metrics.start(read_queued)

    def stop(self) -> None:
        """Hand over what was counted; the worker ends."""
        self.worker_metrics.stop()
        if self.spans is not None:
            self.spans.stop()

    def operations(self, name: str) -> Operations:
        """Return the operations on `NAME` or `NAME@LABEL`.

        Raises:
            NotServedError: there is no such model.
            OperationError: it has no store yet.
        """
        if name not in self._instances:
            raise NotServedError(f"model: expected {' or '.join(self._instances)}, found {name}")
        if name not in self._operations:
            self._operations[name] = Operations(self._instances[name].settings.store)
        return self._operations[name]

    def looks(self) -> Iterator[Look]:
        """Look at every model."""
        traffic = self.worker_metrics.traffic()
        for name, instance in self._instances.items():
            operations, status = self._examine(name)
            settings = instance.settings
            yield Look(
                full_name=name,
                name=settings.name,
                label=settings.label,
                status=status,
                history=operations.history(MOST_SWAPS) if operations else [],
                events=instance.journal.read(_MOST_EVENTS),
                verdict=instance.reloader.status.verdict,
                unserved_s=unserved_s(instance.reloader.status.unserved_ns, status),
                traffic=traffic.get((settings.name, settings.label), Traffic()),
                memory=self._read_memory([row.pid for row in status.workers]),
            )

    def readings(self) -> Iterator[Reading]:
        """Read the values of the metrics that are not counted."""
        yield Reading("envserve_env_info", {"env_digest": self.env_digest or ""}, 1)
        workers = {os.getpid()}
        for name, instance in self._instances.items():
            operations, status = self._examine(name)
            workers |= {row.pid for row in status.workers}
            whose = ModelLabel(instance.settings.name, instance.settings.label)
            generations = operations.generations() if operations else []
            yield from read_model(whose, status, generations, unserved_s(instance.reloader.status.unserved_ns, status))
        yield from read_memory(sorted(workers))

    def _examine(self, name: str) -> tuple[Operations | None, Status]:
        if name not in self._operations and not self._instances[name].settings.store.is_dir():
            return None, Status(None, (), None, None, ())  # the reloader has not made it yet
        operations = self.operations(name)
        return operations, operations.status()

    def _read_memory(self, workers: list[int]) -> dict[int, dict[str, int]]:
        read_s, known = self._memory
        if time.monotonic() - read_s > _MEMORY_AGE_S or not set(workers) <= set(known):
            known = {pid: memory_of(pid) for pid in workers}
            self._memory = time.monotonic(), known
        return known
