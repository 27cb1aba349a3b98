"""One worker's share of the metrics: counters of requests, and a thread that hands the counts over once a second."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from typing import Callable

from serve.metrics.metric_families import MetricFamilies, ModelLabel, Reading, write
from serve.metrics.request_counters import RequestCounters
from serve.metrics.totals import Tally, Traffic, read_tallies, read_traffic

_HAND_OVER_S = 1.0


class WorkerMetrics:
    """Counts what one worker does, and reports what all workers have counted.

    `read_shadow` returns how many requests were compared with each model's shadow so far, by outcome.
    """

    def __init__(self, read_shadow: Callable[[], Mapping[str, Mapping[str, int]]] = dict) -> None:
        self.request_counters = RequestCounters()
        self._read_queued: Callable[[], int] = lambda: 0
        self._read_shadow = read_shadow
        self.families = MetricFamilies()
        self._is_stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: tuple[int, threading.Thread] | None = None

    def start(self, read_queued: Callable[[], int]) -> None:
        """Begin to hand over, once in each process; threads do not survive a fork."""
        self._read_queued = read_queued
        if self._thread is None or self._thread[0] != os.getpid():
            thread = threading.Thread(target=self._run, name="metrics", daemon=True)
            self._thread = os.getpid(), thread
            thread.start()

    def begin(self, models: Iterable[ModelLabel], shadow_outcomes: Mapping[str, Iterable[str]]) -> None:
        """Begin the series whose labels are known, in the worker; `serve.metrics.metric_families` states why."""
        with self._lock:
            self.families.begin(models, shadow_outcomes)

    def stop(self) -> None:
        """Hand over what is left; the worker ends."""
        self._is_stopping.set()
        self.hand_over()

    def hand_over(self) -> None:
        """Put what was counted where Prometheus finds it."""
        with self._lock:
            self.request_counters.queue(self._read_queued())
            self.families.add(self.request_counters.take())
            self.families.compare(self._read_shadow())

    def write(self, readings: Iterable[Reading]) -> bytes:
        """Write all metrics of the server in Prometheus's text format."""
        self.hand_over()
        return write(self.families.collect(readings))

    def traffic(self) -> dict[tuple[str, str], Traffic]:
        """Tell how many requests were answered so far, and how fast, by model and label."""
        self.hand_over()
        return read_traffic(self.families.collect(()))

    def tallies(self) -> dict[str, Tally]:
        """Return the tally of each model so far."""
        self.hand_over()
        return read_tallies(self.families.collect(()))

    def _run(self) -> None:
        while not self._is_stopping.wait(_HAND_OVER_S):
            self.hand_over()
