"""Values that are read when Prometheus asks: from the files of a store, which all workers share, and the kernel.

So these values are the same whichever worker answers, and a worker that died is not among them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from serve.metrics.metric_families import SWAPS, ModelLabel, Reading
from serve.operations.operations import Status
from serve.store.ledger import CHECKPOINT, Entry

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
    for cause, count in Counter(entry.cause for entry in history).items():
        yield Reading(SWAPS, {**of_model, "outcome": "committed", "reason": cause}, count)


def unserved_s(written_ns: int | None, status: Status) -> float:
    """Return the age of the newest published checkpoint while it is not served, be it this worker who has found it.

    `written_ns` is when its marker was written, as this worker's reloader knows.
    """
    known_ns = [] if written_ns is None else [written_ns]
    if status.proposal is not None and status.proposal.entry.cause == CHECKPOINT:
        known_ns.append(status.proposal.entry.marker_mtime_ns)
    return max(0.0, time.time() - max(known_ns) / 1e9) if known_ns else 0.0


def read_memory(workers: Sequence[int]) -> Iterator[Reading]:
    """Yield the memory that workers use; nothing for a worker that has ended."""
    for pid in workers:
        for kind, size_bytes in memory_of(pid).items():
            yield Reading("envserve_memory_bytes", {"worker": str(pid), "kind": kind}, size_bytes)


def memory_of(pid: int, proc: Path = _PROC) -> dict[str, int]:
    """Ask the kernel how many bytes of memory a process uses, by kind; nothing where there is no such process.

    `rss` is what is resident; `pss` divides each shared page by the number of its users, so that the sum over all
    workers is what they take together.
    """
    try:
        lines = (proc / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    stated = dict(line.split(":", 1) for line in lines if line.startswith(("Rss:", "Pss:")))
    return {kind.lower(): int(value.split()[0]) * _KIBIBYTE for kind, value in stated.items()}
