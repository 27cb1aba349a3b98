"""On the trainer's side: the checkpoint, loaded as a server loads it; golden requests, whose missing answers it gives.

The model class and all that belongs to it come from the same settings as the server's.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from serve import durable_files
from serve.checkpoint.manifest import Manifest, Stored, golden_issues, parse_golden
from serve.errors import PublishError, ServeError
from serve.model.answers import as_json
from serve.settings.settings import Settings, load_settings

if TYPE_CHECKING:
    from serve.model.loader import Loaded
    from serve.model.torch_predictor import TorchPredictor
    from serve.model.trial import Say


_OF_RECORDED = 16


def read_golden(path: Path, checkpoint: Path, model: str | None = None) -> list[dict[str, object]]:
    """Read golden requests, a JSON list of `{"inputs": …}`, and compute missing answers; raises `ServeError`."""
    try:
        stated = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PublishError(f"{path}: {error}", hint='write a JSON list of {"inputs": …}') from error
    missing = [
        place
        for place, one in enumerate(stated if isinstance(stated, list) else [])
        if isinstance(one, dict) and "inputs" in one and "outputs" not in one
    ]
    for place in missing:
        stated[place]["outputs"] = None
    issues = golden_issues(stated)
    if issues:
        raise PublishError(f"{path}: " + "; ".join(issues))
    golden = list(parse_golden(stated))
    if missing:
        predictor = _load(checkpoint, model)
        for place in missing:
            golden[place] = replace(golden[place], outputs=as_json(predictor.predict(golden[place].inputs)))
    return [one.as_json() for one in golden]


def record_golden(checkpoint: Path, model: str | None = None) -> list[dict[str, object]]:
    """Make golden requests of what was recorded, with the answers of a checkpoint; raises `ServeError`."""
    from serve.publishing import recorded

    settings = load_settings(os.environ, Path.cwd()).find(model)
    chosen = recorded.choose(recorded.find_recorded(settings, None), _OF_RECORDED)
    return recorded.make_golden(chosen, load_own(settings, checkpoint).predictor)


def check(checkpoint: Path, model: str | None = None) -> None:
    """Load a checkpoint as a server of the settings does; raises `ServeError` where that would refuse it."""
    try:
        _load(checkpoint, model)
    except ServeError:
        raise
    except Exception as error:  # whatever the model's own code raises
        hint = "a server could not load it"
        raise PublishError(f"{checkpoint.name}: {type(error).__name__}: {error}", hint) from error


def _load(checkpoint: Path, model: str | None) -> TorchPredictor:
    return load_own(load_settings(os.environ, Path.cwd()).find(model), checkpoint).predictor


def load_own(settings: Settings, checkpoint: Path, say: Say | None = None) -> Loaded:
    """Load a checkpoint as a server would, with all gates but those that it decides itself; raises `ServeError`."""
    from serve.model.loader import ModelLoader  # brings torch

    sha256 = durable_files.hash_file(checkpoint)
    # What a server may unpickle is that server's decision, and a signature comes after this.
    allowed = replace(settings, allowed_pickles=frozenset({sha256}), verify_key=(), memory="unchecked")
    return ModelLoader(allowed, say=say).load(Stored(checkpoint, sha256, checkpoint.stat().st_size), Manifest())
