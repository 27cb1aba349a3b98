"""One model with its labels, and the choice of the label that answers a request.

A model has what answers by default, `stable`, and may have a `canary`, which answers a part of the requests, and a
`shadow`, whose answers are only compared. Each label is a model instance with its own watch, store and slot.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable, NamedTuple

from serve.errors import NotServedError
from serve.settings.settings import CANARY, SHADOW, STABLE

if TYPE_CHECKING:
    from serve.http.messages import Request
    from serve.inference.model_instance import ModelInstance


_KEY = "x-canary-key"


# Of a canary's answers, where its rule wants them compared with those of the stable label.
_COMPARED_SHARE = 0.5


class ModelSpec(NamedTuple):
    """What a request asks for.

    Args:
        name: of the model; `None` for the only one.
        version: that must answer; `None` for any.
        label: that must answer; `None` for any.
        key: what always gets the same side of a canary; `None` for a draw.
    """

    name: str | None = None
    version: str | None = None
    label: str | None = None
    key: str | None = None


def spec_of(request: Request) -> ModelSpec:
    """Read from path and headers which model is meant.

    Args:
        request: its path names the model, and may name a version or a label.
    """
    label = request.place.get("label", request.headers.get("x-model-label"))
    return ModelSpec(request.place.get("name"), request.place.get("version"), label, request.headers.get(_KEY))


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
        self._compared = 0.0
        canary = labels.get(CANARY)
        if canary is not None:
            canary.guard.elsewhere = labels[STABLE]
            self._compared = _COMPARED_SHARE if "agreement" in canary.settings.promote else 0.0

    @property
    def stable(self) -> ModelInstance:
        """What answers by default."""
        return self.labels[STABLE]

    def compare_with(self, instance: ModelInstance) -> ModelInstance | None:
        """Choose what is asked as well, this time, and compared with the answer of an instance; `None` for nothing."""
        if self._compared and instance.settings.label == CANARY:
            return self.stable if self._draw() < self._compared else None
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
        if canary is not None and self._draws(canary, spec.key):
            live = canary.slot.live
            if live is not None and not canary.batching.has_ended(live.provenance.generation):
                return canary
        return self.stable

    def _draws(self, canary: ModelInstance, key: str | None) -> bool:
        """Whether a request is the canary's; the same key gets the same answer in every worker and after restarts."""
        if key is None:
            return self._draw() < canary.settings.share
        digest = hashlib.blake2b(f"{self.name}:{key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < canary.settings.share * 2**64
