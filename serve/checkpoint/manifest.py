"""The manifest: the statements of a marker about its checkpoint, golden requests among them.

A marker is JSON, or empty as a shell script's `touch` makes it. Machines write markers, so keys that this version of
`serve` does not know are kept. Whether what is stated is true is decided elsewhere: `serve.store.checkpoint_store`
compares the hash, `serve.checkpoint.signature` the signature, `serve.model.loader` the rest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from serve.checkpoint.formats import FORMATS
from serve.checkpoint.provenance import WORD
from serve.errors import CheckpointError

_SHA256 = re.compile(r"[0-9a-f]{64}")
# What `sha256sum FILE` writes; a backslash before it says that the name has escapes.
_SHA256SUM = re.compile(rb"\\?([0-9a-f]{64}) [ *][^\n]+\n?")
_LARGEST_GENERATION = 2**63


@dataclass(frozen=True)
class Manifest:
    """What a marker states. An empty marker states nothing."""

    sha256: str | None = None  # of the checkpoint, in lower-case hexadecimal
    size_bytes: int | None = None
    version: str | None = None
    created: str | None = None
    format: str | None = None
    generation: int = 0
    interface: Mapping[str, str] = field(default_factory=dict)  # the form of the answers: `serve.model.answers`
    metrics: Mapping[str, float] = field(default_factory=dict)  # that the publisher wants to be shown
    golden: Sequence[Golden] = ()
    signature: Mapping[str, object] | None = None
    openssf: Mapping[str, object] | None = None
    rest: Mapping[str, object] = field(default_factory=dict)
    stated: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)


def read_object(text: bytes) -> dict[str, object]:
    """Read a marker as a JSON object, one of white space as an empty one; raises `CheckpointError` for all else."""
    if not text.strip():
        return {}
    line = _SHA256SUM.fullmatch(text)
    if line is not None:
        return {"sha256": line[1].decode()}
    try:
        stated = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "`touch` makes an empty marker, `sha256sum FILE > FILE.done` or `python -m serve publish` one with proof"
        raise CheckpointError("marker", f"the marker is neither empty nor JSON ({error})", hint) from error
    if not isinstance(stated, dict):
        raise CheckpointError("marker", f"the marker: expected a JSON object, found {type(stated).__name__}")
    return stated


def parse_marker(text: bytes) -> Manifest:
    """Parse a marker; one of white space states nothing. Raises `CheckpointError` that names all issues."""
    if not text.strip():
        return Manifest()
    stated = read_object(text)
    known: dict[str, Any] = {key: stated[key] for key in _KEYS if stated.get(key) is not None}
    unfit = {key: repr(value)[:80] for key, value in known.items() if not _KEYS[key][0](value)}
    issues = [f"{key}: expected {_KEYS[key][1]}, found {found}" for key, found in unfit.items()]
    # What a registry states of a version is a manifest, though nobody has hashed its checkpoint.
    if stated.get("sha256") is None and "mlflow" not in stated:
        issues.append("sha256: missing; only an empty marker may leave it out")
    issues += golden_issues(stated.get("golden"))
    if issues:
        raise CheckpointError("marker", "the marker: " + "; ".join(issues))
    rest = {key: value for key, value in stated.items() if key not in (*_KEYS, "golden")}
    size_bytes, golden = known.pop("size", None), parse_golden(stated.get("golden"))
    return Manifest(size_bytes=size_bytes, golden=golden, rest=rest, stated=stated, **known)


def stated_sha256(text: bytes) -> object:
    """Return the sha256 that a marker states, or `None`; whether the marker is sound is decided elsewhere."""
    try:
        return read_object(text).get("sha256")
    except CheckpointError:
        return None


def stated_generation(text: bytes) -> int:
    """Return the publisher's number that a marker states, or 0; whether the marker is sound is decided elsewhere."""
    if b'"generation"' not in text:
        return 0
    try:
        stated = json.loads(text)
    except (ValueError, RecursionError):
        return 0
    number: Any = stated.get("generation") if isinstance(stated, dict) else None
    return int(number) if _is_count(number) else 0


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST_GENERATION


# What the value of each key has to be, and how that is said.
_KEYS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "sha256": (lambda value: _matches(_SHA256, value), "64 lower-case hexadecimal digits"),
    "size": (_is_count, "a number of bytes"),
    "version": (lambda value: _matches(WORD, value), "letters, digits and ._+-"),
    "created": (lambda value: isinstance(value, str), "a text"),
    "format": (lambda value: value in FORMATS, " or ".join(FORMATS)),
    "generation": (_is_count, "a number below 2**63"),
    "metrics": (lambda value: isinstance(value, dict) and all(map(is_number, value.values())), "numbers by name"),
    "interface": (lambda value: isinstance(value, dict) and {*map(type, value.values())} <= {str}, "texts by name"),
    "signature": (lambda value: isinstance(value, dict), "an object"),
    "openssf": (lambda value: isinstance(value, dict), "an object"),
}


RELATIVE_TOLERANCE = 1e-3  # what float32 loses when the order of a sum changes, as between batch sizes and devices
ABSOLUTE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Golden:
    """One request and its right answer; a number may be off by `atol`, and by `rtol` of the right one."""

    inputs: object
    outputs: object
    rtol: float = RELATIVE_TOLERANCE
    atol: float = ABSOLUTE_TOLERANCE


def golden_issues(stated: object) -> list[str]:
    """List what is wrong with the golden requests of a manifest."""
    if stated is None:
        return []
    if not isinstance(stated, list):
        return [f"golden: expected a list of requests, found {type(stated).__name__}"]
    issues = []
    for place, one in enumerate(stated):
        if not isinstance(one, dict) or not {"inputs", "outputs"} <= set(one):
            issues.append(f'golden[{place}]: expected {{"inputs": …, "outputs": …}}')
            continue
        for key in ("rtol", "atol"):
            if key in one and not (is_number(one[key]) and math.isfinite(one[key]) and one[key] >= 0):
                issues.append(f"golden[{place}].{key}: expected a number of at least 0, found {one[key]!r}")
    return issues


def parse_golden(stated: object) -> tuple[Golden, ...]:
    """Read the golden requests of a manifest that has no issues."""
    keys = ("inputs", "outputs", "rtol", "atol")
    listed = stated if isinstance(stated, list) else []
    return tuple(Golden(**{key: one[key] for key in keys if key in one}) for one in listed)


def is_number(value: object) -> bool:
    """Whether a value of JSON is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Stored:
    """A proven checkpoint in the store; seconds are 0 where nothing was copied or hashed for it here."""

    path: Path
    sha256: str
    size_bytes: int
    copy_s: float = 0.0
    hash_s: float = 0.0


def manifest_of(marker: str) -> Manifest:
    """Return what the marker of a generation stated, or an empty one where it cannot be read."""
    try:
        return parse_marker(marker.encode())
    except CheckpointError:
        return Manifest()


def publisher_of(manifest: Manifest) -> str | None:
    """Return the name of the key that signed, and how; `None` where nobody did."""
    if manifest.signature is not None:
        return f"ed25519:{manifest.signature.get('key')}"
    bundle: Any = manifest.openssf
    try:
        return f"openssf:{bundle['verificationMaterial']['publicKey']['hint']}" if bundle else None
    except (KeyError, TypeError):
        return "openssf:None"  # signed in a form that no key of ours can check
