"""Parsers of single values of the settings, of the TOML file or a variable, and how keys are declared and layered.

Each takes the value and the directory to which paths are relative; raises `ValueError`: what was expected and found."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from serve.checkpoint.provenance import WORD
from serve.errors import Issue

_IMPORT_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_SHORTEST_TOKEN = 16  # whoever guesses it can roll back
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s,]+")
_FLEET = re.compile(r"etcd:https?://[\w.:\[\]-]+(,https?://[\w.:\[\]-]+)*/[\w./-]*\w|ray:/.*\S")
_MLFLOW = re.compile(r"mlflow:models:/{1,3}([^/:@]+)@([^/:@]+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def text(value: object, base: Path) -> str:
    """Read a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected a text, found {value!r}")
    return value.strip()


def optional_text(value: object, base: Path) -> str:
    """Read a text that may be empty."""
    if not isinstance(value, str):
        raise ValueError(f"expected a text, found {value!r}")
    return value.strip()


def _in_the_form(pattern: re.Pattern[str], expected: str, is_required: bool = False) -> Callable[[object, Path], str]:
    def parse(value: object, base: Path) -> str:
        if (value != "" or is_required) and (not isinstance(value, str) or not pattern.fullmatch(value)):
            raise ValueError(f"expected {expected}, found {value!r}")
        return str(value)

    return parse


word = _in_the_form(WORD, "letters, digits and ._+-")  # what fits in a response header
import_name = _in_the_form(_IMPORT_NAME, "module:Class", is_required=True)
fleet = _in_the_form(_FLEET, "etcd:URL,URL/PREFIX or ray:/DIRECTORY")


def path(value: object, base: Path) -> Path:
    """Read a path, relative to `base`."""
    return base / Path(text(value, base)).expanduser()


def token_file(value: object, base: Path) -> Path | None:
    """Read the path of a file that holds a token that is long enough, or an empty text for none."""
    if value == "":
        return None
    found = path(value, base)
    try:
        length = len(found.read_text(encoding="utf-8").strip())
    except (OSError, ValueError) as error:
        raise ValueError(f"expected a file that can be read, found {error}") from error
    if length < _SHORTEST_TOKEN:
        raise ValueError(f"expected a token of at least {_SHORTEST_TOKEN} characters, found {length}")
    return found


def optional_path(value: object, base: Path) -> Path | None:
    """Read a path, or an empty text for none."""
    return None if value == "" else path(value, base)


def place(value: object, base: Path) -> Path:
    """Read a path, relative to `base`, or a URL or an alias of MLflow, which are relative to nothing."""
    stated = text(value, base)
    return Path(stated) if mlflow_alias(stated) or "://" in stated else path(value, base)


def mlflow_alias(stated: str) -> tuple[str, str] | None:
    """Return model and alias of a place of MLflow's registry, `None` for another place; raises `ValueError`."""
    found = _MLFLOW.fullmatch(stated)
    if found is None and stated.startswith("mlflow:"):
        raise ValueError(f"expected mlflow:models:/NAME@ALIAS, found {stated}")
    return (found[1], found[2]) if found else None


def paths(value: object, base: Path) -> tuple[Path, ...]:
    """Read a list of paths; in a variable they are separated by colons."""
    return tuple(path(part, base).absolute() for part in _parts(value, "directories", ":"))


def sha256_list(value: object, base: Path) -> frozenset[str]:
    """Read a list of sha256; in a variable they are separated by commas."""
    return frozenset(_matching(_SHA256, _parts(value, "sha256"), "64 lower-case hexadecimal digits"))


def origins(value: object, base: Path) -> tuple[str, ...]:
    """Read a list of origins of web pages; in a variable they are separated by commas."""
    return tuple(_matching(_ORIGIN, _parts(value, "origins"), "an origin, for example https://example.org, or *"))


def _parts(value: object, kind: str, separator: str = ",") -> Sequence[object]:
    parts = value.split(separator) if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        raise ValueError(f"expected a list of {kind}, found {value!r}")
    return parts


def _matching(pattern: re.Pattern[str], parts: Iterable[object], expected: str) -> Iterator[str]:
    for part in parts:
        if not isinstance(part, str) or not pattern.fullmatch(part.strip()):
            raise ValueError(f"expected {expected}, found {part!r}")
        yield part.strip()


def table(value: object, base: Path) -> Mapping[str, object]:
    """Read a table; in a variable it is a JSON object."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"expected a JSON object, found {value!r} ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"expected a table of keyword arguments, found {value!r}")
    return found


def numbers(*keys: str) -> Callable[[object, Path], Mapping[str, float]]:
    """Return a parser for a table of numbers of at least 0 with known keys."""

    def parse(value: object, base: Path) -> Mapping[str, float]:
        found = {key: _number(number) for key, number in table(value, base).items()}
        for key, number in found.items():
            if key not in keys:
                raise ValueError(f"expected the keys {', '.join(keys)}, found {key} ({nearest(key, keys)})")
            if not (math.isfinite(number) and number >= 0):
                raise ValueError(f"{key}: expected a number of at least 0, found {number}")
        return found

    return parse


def example(value: object, base: Path) -> object:
    """Read an example of inputs; in a variable it is JSON, or a text of its own."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def one_of(*choices: str) -> Callable[[object, Path], str]:
    """Return a parser for one of a few words."""

    def parse(value: object, base: Path) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"expected {' or '.join(choices)}, found {value!r}")
        return value

    return parse


def whole_number(least: int) -> Callable[[object, Path], int]:
    """Return a parser for a whole number."""

    def parse(value: object, base: Path) -> int:
        number = int(value) if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value) else value
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise ValueError(f"expected a whole number of at least {least}, found {value!r}")
        return number

    return parse


def threads(value: object, base: Path) -> int:
    """Read a number of threads, or the word `auto`, for which it gives 0."""
    try:
        return 0 if value == "auto" else whole_number(1)(value, base)
    except ValueError as error:
        raise ValueError(f"{error}; or auto") from None


def sizes(value: object, base: Path) -> tuple[int, ...]:
    """Read a list of whole numbers of at least 1; in a variable they are separated by commas."""
    number = whole_number(1)
    parts = _parts(value, "whole numbers")
    return tuple(number(part.strip() if isinstance(part, str) else part, base) for part in parts)


def seconds(least: float) -> Callable[[object, Path], float]:
    """Return a parser for a duration in seconds."""

    def parse(value: object, base: Path) -> float:
        number = _number(value)
        if not math.isfinite(number) or number < least:
            raise ValueError(f"expected at least {least:g} seconds, found {value!r}")
        return number

    return parse


def share(value: object, base: Path) -> float:
    """Read a part of a whole, from 0 to 1."""
    number = _number(value)
    if not 0 <= number <= 1:
        raise ValueError(f"expected a number from 0 to 1, found {value!r}")
    return number


def _number(value: object) -> float:
    """Return a number, NaN for what is not a number."""
    try:
        return math.nan if isinstance(value, bool) or not isinstance(value, (int, float, str)) else float(value)
    except ValueError:
        return math.nan


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else "known: " + ", ".join(known)


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
