"""A key of the settings, how the settings' classes declare it, and the values of keys out of layers of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from serve.errors import Issue

PREFIX = "SERVE_"
MODEL, SERVER = "model", "server"
REQUIRED = object()
Parse = Callable[[object, Path], Any]


@dataclass(frozen=True)
class Field:
    """One key of the settings."""

    key: str
    parse: Parse  # turns a value of the file, or the text of a variable, into the setting
    default: object  # in the form of the file
    help: str
    scope: str = MODEL  # whether each model may have its own (`model`), or the process has one (`server`)

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.key.upper()

    def default_as_json(self) -> dict[str, object]:
        """Return the default under the key `default`; nothing where a value is required."""
        return {} if self.default is REQUIRED else {"default": self.default}


def key(parse: Parse, default: object, help: str, **scope: str) -> Any:
    """Declare a field of a settings class as a key; `Field` describes the arguments."""
    return dataclasses.field(metadata={"parse": parse, "default": default, "help": help, **scope})


def fields_of(declared: type, scope: str) -> Iterator[Field]:
    """Return the keys that a settings class declares, in their order."""
    for field in dataclasses.fields(declared):
        if field.metadata:
            yield Field(field.name, **{"scope": scope, **field.metadata})


@dataclass(frozen=True)
class Layer:
    """The keys that one table of the file states, or the environment."""

    place: str
    stated: Mapping[str, object]
    base: Path  # the directory to which paths are relative
    is_environment: bool = False

    def name(self, key: str) -> str:
        """Return what a message calls a key of this layer."""
        return PREFIX + key.upper() if self.is_environment else self.place + key

    def without(self, keys: Collection[str]) -> Layer:
        """Return this layer without some keys."""
        return dataclasses.replace(self, stated={key: self.stated[key] for key in self.stated if key not in keys})


def parse(layers: Iterable[Layer], fields: Iterable[Field], issues: list[Issue]) -> dict[str, object]:
    """Return the values of some fields by key, those of the first layer that states them; what is wrong is an issue."""
    layers = tuple(layers)
    parsed = {}
    for known in fields:
        layer = next((layer for layer in layers if known.key in layer.stated), None)
        if layer is None and known.default is REQUIRED:
            named = layers[1].name(known.key) if len(layers) > 2 else known.key
            hint = f"set it in the settings file, or as {known.variable}" if len(layers) == 2 else "set it there"
            issues.append(Issue(named, f"missing; it is {known.help}", hint))
            continue
        found, where = (layer.stated[known.key], layer) if layer else (known.default, layers[-1])
        try:
            parsed[known.key] = known.parse(found, where.base)
        except ValueError as error:
            issues.append(Issue(where.name(known.key), str(error), f"it is {known.help}"))
    return parsed
