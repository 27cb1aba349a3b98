"""Where a setting is stated: layers of keys, of which the first that has a key wins."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from serve.errors import Issue
from serve.settings import parsers
from serve.settings.fields import FIELDS, PREFIX, REQUIRED, SERVER, Field


@dataclass(frozen=True)
class Layer:
    """The keys that one table of the file states, or the environment.

    Args:
        base: the directory to which paths are relative.
    """

    place: str
    stated: Mapping[str, object]
    base: Path
    is_environment: bool = False

    @classmethod
    def of_environment(cls, environ: Mapping[str, str], directory: Path) -> Layer:
        """Make the layer of the variables that set a field."""
        stated = {field.key: environ[field.variable] for field in FIELDS if field.variable in environ}
        return cls("", stated, directory, is_environment=True)

    def name(self, key: str) -> str:
        """Return what a message calls a key of this layer."""
        return PREFIX + key.upper() if self.is_environment else self.place + key

    def without(self, keys: Collection[str]) -> Layer:
        """Return this layer without some keys."""
        return replace(self, stated={key: value for key, value in self.stated.items() if key not in keys})

    def unknown(self, known: Collection[str]) -> list[Issue]:
        """List the keys that mean nothing here."""
        servers = {field.key for field in FIELDS if field.scope == SERVER} - set(known)
        once = "the whole server has one of it: put it at the top"
        return [
            Issue(self.name(key), "unknown key", once if key in servers else parsers.nearest(key, known))
            for key in sorted(set(self.stated) - set(known))
        ]


def parse(layers: Iterable[Layer], fields: Iterable[Field], issues: list[Issue]) -> dict[str, object]:
    """Read some fields.

    Args:
        layers: the one that wins comes first.
        issues: what is wrong is added here.

    Returns:
        The values by key, without those that have an issue.
    """
    layers = tuple(layers)
    parsed = {}
    for field in fields:
        layer = next((layer for layer in layers if field.key in layer.stated), None)
        try:
            parsed[field.key] = _parse_one(field, layer, layers[-1].base)
        except ValueError as error:
            place = layer.name(field.key) if layer else layers[-1].name(field.key)
            issues.append(Issue(place, str(error), f"it is {field.help}"))
        except LookupError:
            named = layers[1].name(field.key) if len(layers) > 2 else field.key
            hint = f"set it in the settings file, or as {field.variable}" if len(layers) == 2 else "set it there"
            issues.append(Issue(named, f"missing; it is {field.help}", hint))
    return parsed


def _parse_one(field: Field, layer: Layer | None, base: Path) -> object:
    if layer is not None:
        return field.parse(layer.stated[field.key], layer.base)
    if field.default is REQUIRED:
        raise LookupError(field.key)
    return field.parse(field.default, base)
