"""One worker's models and telemetry, made from the settings, started and stopped as one."""

from __future__ import annotations

import time
from typing import Callable

from serve.events.event_log import Event
from serve.http.drain import Drain
from serve.inference.model_instance import ModelInstance
from serve.inference.prediction import Model, Registry
from serve.inference.rollout import Rollout
from serve.metrics.worker_metrics import WorkerMetrics
from serve.observability.telemetry import Telemetry
from serve.rollout.decision import rollout_of
from serve.rollout.evidence_board import Watch
from serve.settings.settings import SHADOW, ServerSettings


class Server(Registry):
    """What the application of one worker works with; making it imports no torch, and `start`, after the fork, does."""

    def __init__(self, settings: ServerSettings, drain: Drain | None = None) -> None:
        def note_span(event: Event) -> None:
            if self.telemetry.spans is not None:
                self.telemetry.spans.note(event)

        worker_metrics = WorkerMetrics(lambda: {name: vars(one) for name, one in list(self.shadow.counts.items())})
        subscribers = worker_metrics.families.count, note_span
        models = {}
        for model in settings.models:
            labels = {label: ModelInstance(one, *subscribers) for label, one in model.labels.items()}
            models[model.name] = Model(model.name, labels)
        super().__init__(settings, models)
        by_name = {instance.settings.full_name: instance for instance in self.instances}
        self._rollouts = [
            Watch(Rollout(instance, model.stable), rule, instance.guard, instance.log)
            for model in models.values()
            for instance in model.labels.values()
            if (rule := rollout_of(instance.settings)) is not None
        ]
        self.telemetry = Telemetry(settings, by_name, drain or Drain(), worker_metrics)

    def start(self, read_queued: Callable[[], int] = lambda: 0) -> None:
        """Start the reloaders' threads in this process, once; after the fork, which threads do not survive."""
        self.telemetry.start(read_queued)
        for instance in self.instances:
            instance.start()
        for rollout in self._rollouts:
            rollout.start("rollout")

    def stop(self) -> None:
        """End the reloaders' threads, so that the interpreter does not go away under torch's feet."""
        self.shadow.stop()
        for rollout in self._rollouts:
            rollout.stop()
        for instance in self.instances:
            instance.reloader.stop()
        for instance in self.instances:
            instance.stop()
        self.telemetry.stop()

    def wait_until_booted(self, is_wanted: Callable[[], bool]) -> bool:
        """Wait until the committed generation of every model is live again, or cannot be; return whether all are. A
        worker that replaces a dead one takes no requests meanwhile; its siblings do. On a host that has committed
        nothing there is nothing to wait for, and requests are answered so. `is_wanted` is asked ten times a second."""
        until_s = time.monotonic() + self.settings.boot_wait_s
        for instance in self.instances:
            while is_wanted() and time.monotonic() < until_s and not instance.reloader.booted.wait(0.1):
                continue
        return all(instance.can_answer for instance in self.instances)

    def wait_while_spared(self, is_wanted: Callable[[], bool]) -> None:
        """Wait while this worker would refuse what another one answers: its load takes long, or fails."""
        asked = [instance for instance in self.instances if instance.settings.label != SHADOW]
        while is_wanted() and not all(instance.can_answer for instance in asked):
            # One worker must answer for all models, as two that wait for each other would both answer nothing.
            needed = (one for one in asked if one.slot.live is not None or not one.can_answer)
            if not set.intersection(*(one.find_others() for one in needed)):
                return
            time.sleep(0.1)
