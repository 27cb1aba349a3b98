"""The models of one worker, by name, and what the handlers of predictions read besides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from serve.errors import NotServedError
from serve.inference.shadow import Shadow

if TYPE_CHECKING:
    from serve.inference.model import Model
    from serve.inference.model_instance import ModelInstance
    from serve.settings.settings import ServerSettings


class Registry:
    """The models of one worker; making it starts nothing and imports no torch."""

    def __init__(self, settings: ServerSettings, models: Mapping[str, Model]) -> None:
        self.settings, self.models = settings, models
        self.shadow = Shadow()

    @property
    def instances(self) -> Iterator[ModelInstance]:
        """All labels of all models."""
        return (instance for model in self.models.values() for instance in model.labels.values())

    def find(self, name: str | None) -> Model:
        """Find a model.

        Args:
            name: as a request has it; `None` for the only one.

        Raises:
            NotServedError: there is no such model, or none was named and there are several.
        """
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name is None or name not in self.models:
            raise NotServedError(f"model: expected {' or '.join(self.models)}, found {name or 'none'}")
        return self.models[name]
