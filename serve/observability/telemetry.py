"""The operators' view of one worker: counts, events, the state of every model, orders, what the status page shows.

It is made from the files of the stores, so every worker answers the same."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from serve.errors import NotServedError
from serve.inference.rollout import Counts
from serve.metrics.metric_families import SWAPS, ModelLabel, Reading
from serve.metrics.worker_metrics import Traffic, WorkerMetrics
from serve.observability.spans import PHASES, AccessLog, Spans
from serve.operations.formatting import status_as_json
from serve.operations.operations import Operations, Status
from serve.operations.timeline import Past
from serve.rollout.drift import Drift
from serve.settings.settings import SHADOW, ServerSettings
from serve.store.ledger import CHECKPOINT, Entry

if TYPE_CHECKING:
    from serve.http.drain import Drain
    from serve.inference.model_instance import ModelInstance

_MOST_EVENTS = 400
_MEMORY_AGE_S = 5.0  # asking the kernel takes a millisecond for each gigabyte; many open pages must not add up


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
        """Return the operations on `NAME` or `NAME@LABEL`; raises `NotServedError`, or `OperationError`."""
        if name not in self._instances:
            raise NotServedError(f"model: expected {' or '.join(self._instances)}, found {name}")
        if name not in self._operations:
            self._operations[name] = Operations(self._instances[name].settings.store)
        return self._operations[name]

    def describe(self) -> list[dict[str, object]]:
        """Describe every model as the status page shows it."""
        found, traffic = [], self.worker_metrics.traffic()
        for name, instance in self._instances.items():
            operations, status = self._examine(name)
            settings, found_by_reloader = instance.settings, instance.reloader.status
            history = operations.history(MOST_SWAPS) if operations else []
            found.append({
                "full_name": name, "name": settings.name, "label": settings.label,
                "verdict": found_by_reloader.verdict,
                "unserved_s": round(unserved_s(found_by_reloader.unserved_ns, status), 3),
                "swaps": list_swaps(history, instance.journal.read(_MOST_EVENTS))[:MOST_SWAPS],
                "fleet": instance.committer.describe() if instance.committer is not None else None,
                "traffic": describe_traffic(traffic.get((settings.name, settings.label), Traffic())),
                **describe_status(status, self._read_memory([row.pid for row in status.workers])),
            })  # fmt: skip
        return found

    def readings(self) -> Iterator[Reading]:
        """Read the values of the metrics that are not counted."""
        yield Reading("envserve_env_info", {"env_digest": self.env_digest or ""}, 1)
        checked_s, breaches = next(iter(self._instances.values())).policy.report()
        yield Reading("envserve_policy_breaches", {}, len(breaches))
        if checked_s:
            yield Reading("envserve_policy_report_age_seconds", {}, time.time() - checked_s)
        workers = {os.getpid()}
        for name, instance in self._instances.items():
            operations, status = self._examine(name)
            workers |= {row.pid for row in status.workers}
            whose = ModelLabel(instance.settings.name, instance.settings.label)
            generations = operations.ledger.read() if operations else []
            if instance.committer is not None:
                yield Reading("envserve_fleet_out", whose._asdict(), instance.is_cut_off)
            yield from read_model(whose, status, generations, unserved_s(instance.reloader.status.unserved_ns, status))
        for pid in sorted(workers):
            for kind, size_bytes in memory_of(pid).items():
                yield Reading("envserve_memory_bytes", {"worker": str(pid), "kind": kind}, size_bytes)

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


_PROC = Path("/proc")
_KIBIBYTE = 1024


def read_model(whose: ModelLabel, status: Status, history: Iterable[Entry], age_s: float) -> Iterator[Reading]:
    """Yield the values of one model; `age_s`: the age of the newest checkpoint while it is not served."""
    of_model = whose._asdict()
    committed = status.committed.generation if status.committed else 0
    yield Reading("envserve_committed_generation", of_model, committed)
    if status.committed is not None:
        yield Reading("envserve_model_info", {**of_model, "version": status.committed.version}, 1)
    for row in status.workers:
        yield Reading("envserve_serving_generation", {**of_model, "worker": str(row.pid)}, row.live)
    slowest = min((row.live for row in status.workers), default=committed)
    yield Reading("envserve_generation_skew", of_model, committed - slowest)
    yield Reading("envserve_workers", of_model, len(status.workers))
    yield Reading("envserve_unserved_seconds", of_model, age_s)
    yield Reading("envserve_quarantined_checkpoints", of_model, len(status.quarantine))
    for tensor in status.changed_tensors:
        yield Reading("envserve_changed_tensor", {**of_model, "tensor": tensor}, 1)
    yield Reading("envserve_pinned", of_model, status.pin is not None)
    probation = status.probation
    yield Reading("envserve_probation_generation", of_model, probation.generation if probation else 0)
    for signal, count in probation.bad.items() if probation else ():
        yield Reading("envserve_probation_bad_answers", {**of_model, "signal": signal}, count)
    drift = status.drift or Drift(committed, 0)
    for kind, score in drift.scores.items():
        yield Reading("envserve_drift_score", {**of_model, "of": kind}, score)
    for kind, spread in drift.spreads.items():
        for statistic in ("mean", "deviation", "p01", "p50", "p99"):
            labels = {**of_model, "of": kind, "statistic": statistic}
            yield Reading("envserve_sketched_value", labels, getattr(spread, statistic))
    for place, share in drift.classes.items():
        yield Reading("envserve_class_share", {**of_model, "class": str(place)}, share)
    for cause, count in Counter(entry.cause for entry in history).items():
        yield Reading(SWAPS, {**of_model, "outcome": "committed", "reason": cause}, count)


def unserved_s(written_ns: int | None, status: Status) -> float:
    """Return the age of the newest published checkpoint that is not served, or 0; this worker knows of `written_ns`."""
    known_ns = [] if written_ns is None else [written_ns]
    if status.proposal is not None and status.proposal.entry.cause == CHECKPOINT:
        known_ns.append(status.proposal.entry.marker_mtime_ns)
    return max(0.0, time.time() - max(known_ns) / 1e9) if known_ns else 0.0


def memory_of(pid: int, proc: Path = _PROC) -> dict[str, int]:
    """Read how many bytes a process uses: resident (`rss`), and with each shared page divided by its users (`pss`)."""
    try:
        lines = (proc / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    stated = dict(line.split(":", 1) for line in lines if line.startswith(("Rss:", "Pss:")))
    return {kind.lower(): int(value.split()[0]) * _KIBIBYTE for kind, value in stated.items()}


_SHOWN = ("generation", "version", "sha256", "size_bytes", "name", "cause")
_HIDDEN = ("marker", "fingerprints", "judge")
MOST_SWAPS = 50


def describe_status(status: Status, memory: Mapping[int, Mapping[str, int]]) -> dict[str, object]:
    """Describe what a model serves in the form that JSON can hold, without what is nobody's business."""
    facts = status_as_json(status)
    for worker in facts["workers"]:
        worker.update({f"{kind}_bytes": size_bytes for kind, size_bytes in memory.get(worker["pid"], {}).items()})
    proposal = facts.pop("proposal")
    facts["committed"] = facts["committed"] and _without(facts["committed"], "marker")
    facts["proposal"] = proposal and _without(proposal["entry"], "marker")
    shown = ("name", "code", "since", "reason", "hint")
    facts["unserved"] = [{key: getattr(note, key) for key in shown} for note in reversed(status.unserved)]
    facts["quarantine"] = [_without(record, *_HIDDEN) for record in reversed(facts["quarantine"])]
    return facts


def describe_traffic(traffic: Traffic) -> dict[str, object]:
    """Describe traffic in the form that JSON can hold, which has no infinity; null stands for "however long"."""
    latency = [(bound_s if bound_s < math.inf else None, count) for bound_s, count in sorted(traffic.latency.items())]
    return {**asdict(traffic), "latency": latency}


def list_swaps(history: Sequence[Past], events: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """List generations and refusals, the newest first; the seconds of a phase are those of the slowest worker."""
    swaps: list[dict[str, object]] = []
    for past in history[:MOST_SWAPS]:
        entry = past.entry
        swapped = [event for event in events if event["event"] == "swapped"]
        reports = [event for event in swapped if event.get("generation") == entry.generation]
        swaps.append(
            {
                "refused": False,
                "at": entry.committed,
                **{key: getattr(entry, key) for key in _SHOWN},
                "is_kept": past.is_kept,
                "outcome": past.outcome,
                "moments": [asdict(moment) for moment in past.moments],
                **{key: getattr(past, key) for key in ("answers", "spoiled", "p99_s")},
                "phases": {phase: _slowest(reports, f"{phase}_s") for phase in PHASES},
                "since_marker_s": _slowest(reports, "since_marker_s") if entry.cause == "checkpoint" else None,
            }
        )
    for event in events:
        if event["event"] == "refused":
            name = str(event.get("checkpoint", "")).rpartition("/")[2]
            facts = {key: event.get(key) for key in ("code", "reason", "version", "sha256", "will_retry")}
            swaps.append({"refused": True, "at": event["time"], "name": name, **facts})
    return sorted(swaps, key=lambda swap: str(swap["at"]), reverse=True)


def _slowest(events: Iterable[Mapping[str, Any]], key: str) -> float | None:
    return max((event[key] for event in events if event.get(key) is not None), default=None)


def _without(facts: Mapping[str, object], *keys: str) -> dict[str, object]:
    return {key: value for key, value in facts.items() if key not in keys}
