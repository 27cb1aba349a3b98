"""The recorded build of a wheel that no index has, from which every machine makes the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Tool:
    """A wheel that the build needs: its backend, or what the backend needs."""

    name: str
    version: str
    url: str
    sha256: str


@dataclass(frozen=True)
class SourceBuild:
    """How a wheel was made.

    Args:
        version: the version that the backend is given where it would ask git for it.
        tree_sha256: hash of the files that it was made of, as `envtool.source_builds.git.tree_sha256` takes it.
        committed_at: when they were committed, in seconds since 1970; the backend's clock.
    """

    wheel: str
    version: str
    tree_sha256: str
    committed_at: int
    tools: tuple[Tool, ...]


def serialize(builds: Mapping[str, SourceBuild]) -> str:
    """Builds by a key, as text for a lock's custom_metadata."""
    return json.dumps({key: asdict(each) for key, each in builds.items()}, sort_keys=True, indent=1)


def parse(text: str) -> dict[str, SourceBuild]:
    """The builds in a lock's custom_metadata; what somebody spoilt is left out, and its package cannot be made."""
    try:
        found: dict[str, Any] = json.loads(text)
        return {key: _build(each) for key, each in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _build(fields: Mapping[str, Any]) -> SourceBuild:
    return SourceBuild(**{**fields, "tools": tuple(Tool(**each) for each in fields.get("tools", ()))})
