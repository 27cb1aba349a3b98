"""The one door to YAML: a document whose every value knows its line, read by rules that collect every issue."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from envtool.errors import Issue, MissingFileError

_MERGE = "tag:yaml.org,2002:merge"
_TEXT, _LIST, _MAPPING = "tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"
# What aliases may add to a document that is written out in full; a file of 300 bytes can come to gigabytes.
_MOST_REPEATED = 100_000
_MOST_NESTED = 100
_MOST_BITS = 1000


class _UnusableError(Exception):
    """Why a node, though it is YAML, has no value."""

    def __init__(self, node: yaml.Node, problem: str) -> None:
        super().__init__(problem)
        self.line = node.start_mark.line + 1
        self.problem = problem


class _StringLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Builds nodes with their places; much quicker where libyaml is there."""

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: tuple[bool, bool]) -> str:
        """Find the tag of a node without one. As the resolver of PyYAML does, whose rules for paths are not used."""
        if kind is yaml.ScalarNode:
            if implicit[0]:
                for tag, pattern in self.yaml_implicit_resolvers.get(value[0] if value else "", ()):
                    if pattern.match(value):
                        return str(tag)
            return _TEXT
        return _LIST if kind is yaml.SequenceNode else _MAPPING


class Value(NamedTuple):
    """A value of a document and the place where it stands."""

    data: Any  # the value: a string, number, boolean, None, a list of `Value` or a dict of string to `Value`
    line: int
    text: str = ""  # how a scalar is written: `1.10`, where the number is 1.1


class YamlDocument:
    """One YAML file by the name that the user gave it, and the issues found while it is read."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.issues: list[Issue] = []
        # What was converted and how many values it holds, by its node: an alias is the node of its anchor.
        self._values: dict[int, tuple[Value, int]] = {}
        self._open: set[int] = set()
        self._repeated = 0
        self.root = self._parse(text)

    def _parse(self, text: str) -> Value:
        was_collecting = gc.isenabled()
        gc.disable()  # half a million nodes would be searched through again and again for cycles that are not there
        try:
            loader = _StringLoader(text)
            try:
                node = loader.get_single_node()
                return Value(None, 1) if node is None else self._convert(loader, node)
            finally:
                loader.dispose()
        except _UnusableError as error:
            self.issue(error.line, error.problem)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            self.issues.append(Issue(f"{self.name}:{line}", f"not YAML: {error.problem or error}"))
        except RecursionError:
            self.issues.append(Issue(f"{self.name}:1", "lists and mappings are nested too deeply"))
        except yaml.YAMLError as error:
            self.issues.append(Issue(f"{self.name}:1", f"not YAML: {error}"))
        finally:
            if was_collecting:
                gc.enable()
        return Value(None, 1)

    def _convert(self, loader: Any, node: yaml.Node) -> Value:
        known = self._values.get(id(node))
        if known is not None:
            self._repeated += known[1]
            if self._repeated > _MOST_REPEATED:
                raise _UnusableError(node, f"aliases repeat more than {_MOST_REPEATED} values")
            return known[0]
        if id(node) in self._open:
            raise _UnusableError(node, "an alias is inside its own anchor")
        if len(self._open) > _MOST_NESTED:
            raise _UnusableError(node, "lists and mappings are nested too deeply")
        self._open.add(id(node))
        before = len(self._values) + self._repeated
        line = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            value = Value(self._convert_mapping(loader, node), line)
        elif isinstance(node, yaml.SequenceNode):
            value = Value([self._convert(loader, item) for item in node.value], line)
        else:
            value = Value(self._construct(loader, node), line, str(node.value))
        self._open.discard(id(node))
        self._values[id(node)] = value, len(self._values) + self._repeated - before + 1
        return value

    def _construct(self, loader: Any, node: yaml.Node) -> Any:
        if node.tag == _TEXT:
            return node.value
        try:
            value = loader.construct_object(node)
        except (ValueError, OverflowError, AttributeError, KeyError, TypeError) as error:  # such as 2026-02-31
            raise _UnusableError(node, f"{node.value!r:.100} is no {node.tag.rpartition(':')[2]}") from error
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise _UnusableError(node, "expected a number of a usual size")
        return value

    def _convert_mapping(self, loader: Any, node: yaml.MappingNode) -> dict[str, Value]:
        own: dict[str, Value] = {}
        merged: dict[str, Value] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _UnusableError(key_node, "expected a text as key")
            if key_node.tag == _MERGE:
                # The earlier of several counts, and what the mapping has itself before all. Source: YAML merge keys.
                nodes = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                values = [self._convert(loader, each) for each in nodes]
                if not all(isinstance(each.data, dict) for each in values):
                    raise _UnusableError(value_node, "expected a mapping or a list of mappings after <<")
                for each in values:
                    merged = {**each.data, **merged}
                continue
            key = str(key_node.value)
            if key in own:
                self.issue(key_node.start_mark.line + 1, f"key {key!r} appears twice")
            own[key] = self._convert(loader, value_node)
        return {**merged, **own}

    def issue(self, line: int, message: str) -> None:
        """Note something wrong in a line, and go on."""
        self.issues.append(Issue(f"{self.name}:{line}", message))

    def mapping(self, value: Value | None, what: str, keys: Sequence[str] | None = None) -> dict[str, Value]:
        """The value as a mapping; with `keys`, any other key is an issue. An absent value is an empty mapping."""
        found: dict[str, Value] = self._typed(value, what, dict, "a mapping") or {}
        for key, entry in found.items():
            if keys is not None and key not in keys:
                from difflib import get_close_matches  # few files have an unknown key

                close = get_close_matches(key, keys, 1)
                guess = f"did you mean {close[0]}?" if close else f"known: {', '.join(keys)}"
                self.issue(entry.line, f"unknown key {key!r} in {what}; {guess}")
        return found

    def items(self, value: Value | None, what: str) -> list[Value]:
        """The value as a list. An absent value is an empty list."""
        return self._typed(value, what, list, "a list") or []

    def strings(self, value: Value | None, what: str) -> list[tuple[str, int]]:
        """The value as a list of strings, each with its line."""
        texts = ((self.string(item, f"an entry of {what}"), item.line) for item in self.items(value, what))
        return [(text, line) for text, line in texts if text is not None]

    def string(self, value: Value | None, what: str) -> str | None:
        """The value as a string, None if it is absent or something else (which is an issue)."""
        text: str | None = self._typed(value, what, str, "a string", "; put it in quotes")
        return text

    def _typed(self, value: Value | None, what: str, kind: type, expected: str, hint: str = "") -> Any:
        if value is None or value.data is None or isinstance(value.data, kind):
            return value.data if value else None
        self.issue(value.line, f"{what} must be {expected}, not {_kind(value)}{hint}")
        return None

    def scalars(self, value: Value | None, what: str) -> Iterator[tuple[str, str]]:
        """The pairs of a mapping of names to single values, which are text; a number or date as it is written."""
        for key, entry in self.mapping(value, what).items():
            if isinstance(entry.data, str):
                yield key, entry.data
            elif entry.data is None or isinstance(entry.data, (dict, list)):
                self.issue(entry.line, f"{key} in {what} must be a string, not {_kind(entry)}; put it in quotes")
            else:
                yield key, entry.text


def dump(value: Any) -> str:
    """A value as YAML, its keys in their order: equal values give equal text."""
    return str(yaml.dump(value, sort_keys=False, Dumper=_Dumper, width=1000, allow_unicode=True))


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes no anchors, which no person wants to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Several lines as several lines, so that a difference of one of them is a difference of one line of the file.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def read_text(path: Path, hint: str) -> str:
    """The content of a text file that a user named. Raises MissingFileError if it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFileError(f"{path} not found", hint) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise MissingFileError(f"{path} cannot be read: {reason}", hint) from error


def _kind(value: Value) -> str:
    data = value.data
    if data is None:
        return "empty"
    names = {dict: "a mapping", list: "a list", str: "a string", bool: f"the boolean {str(data).lower()}"}
    return names.get(type(data), f"the number {data}" if isinstance(data, (int, float)) else type(data).__name__)
