"""One model with its labels, and the choice of the label that answers a request.

A model has what answers by default, `stable`, and may have a `canary`, which answers a part of the requests, and a
`shadow`, whose answers are only compared. Each label is a model instance with its own watch, store and slot.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable, NamedTuple

from serve.errors import NotServedError
from serve.settings.settings import CANARY, SHADOW, STABLE

if TYPE_CHECKING:
    from serve.http.messages import Request
    from serve.inference.model_instance import ModelInstance


class ModelSpec(NamedTuple):
    """What a request asks for.

    Args:
        name: of the model; `None` for the only one.
        version: that must answer; `None` for any.
        label: that must answer; `None` for any.
    """

    name: str | None = None
    version: str | None = None
    label: str | None = None


def spec_of(request: Request) -> ModelSpec:
    """Read from path and headers which model is meant.

    Args:
        request: its path names the model, and may name a version or a label.
    """
    label = request.place.get("label", request.headers.get("x-model-label"))
    return ModelSpec(request.place.get("name"), request.place.get("version"), label)


class Model:
    """One model with its labels.

    Args:
        labels: the runtimes; `stable` is always there.
        draw: gives a number from 0 up to 1 that decides who answers.
    """

    def __init__(
        self, name: str, labels: Mapping[str, ModelInstance], draw: Callable[[], float] = random.random
    ) -> None:
        self.name = name
        self.labels = labels
        self._draw = draw

    @property
    def stable(self) -> ModelInstance:
        """What answers by default."""
        return self.labels[STABLE]

    @property
    def shadow(self) -> ModelInstance | None:
        """What is asked as well, this time; `None` for nothing."""
        shadow = self.labels.get(SHADOW)
        return shadow if shadow is not None and self._draw() < shadow.settings.share else None

    @property
    def versions(self) -> dict[str, ModelInstance]:
        """What can be asked for by its version: those that are live, but not the shadow."""
        instances = [self.labels[label] for label in (CANARY, STABLE) if label in self.labels]
        return {live.provenance.version: instance for instance in instances if (live := instance.slot.live) is not None}

    def choose(self, spec: ModelSpec) -> ModelInstance:
        """Choose who answers a request.

        Raises:
            NotServedError: no such version or label is served.
        """
        if spec.label is not None:
            if spec.label not in self.labels or spec.label == SHADOW:
                known = ", ".join(label for label in self.labels if label != SHADOW)
                raise NotServedError(f"{self.name}: label: expected {known}, found {spec.label}")
            return self.labels[spec.label]
        if spec.version is not None:
            versions = self.versions
            if spec.version not in versions:
                known = ", ".join(versions) or "none, as nothing is live yet"
                raise NotServedError(f"{self.name}: version: expected {known}, found {spec.version}")
            return versions[spec.version]
        canary = self.labels.get(CANARY)
        if canary is not None and canary.slot.live is not None and self._draw() < canary.settings.share:
            return canary
        return self.stable
