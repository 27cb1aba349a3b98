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
from serve.checkpoint.manifest import Golden, Manifest, Stored, golden_issues, parse_golden
from serve.errors import PublishError, ServeError
from serve.settings.settings import Settings, load_settings

if TYPE_CHECKING:
    from serve.model.loader import Loaded
    from serve.model.torch_predictor import TorchPredictor
    from serve.model.trial import Say


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
        answers = _ask([golden[place] for place in missing], _load(checkpoint, model))
        for place, answer in zip(missing, answers):
            golden[place] = replace(golden[place], outputs=answer)
    return [one.as_json() for one in golden]


def check(checkpoint: Path, model: str | None = None) -> None:
    """Load a checkpoint as a server of the settings does; raises `ServeError` where that would refuse it."""
    try:
        _load(checkpoint, model)
    except ServeError:
        raise
    except Exception as error:  # whatever the model's own code raises
        raise PublishError(
            f"{checkpoint.name}: {type(error).__name__}: {error}", hint="a server could not load it"
        ) from error


def _load(checkpoint: Path, model: str | None) -> TorchPredictor:
    return load_own(load_settings(os.environ, Path.cwd()).find(model), checkpoint).predictor


def _ask(golden: list[Golden], predictor: TorchPredictor) -> list[object]:
    answers: list[object] = json.loads(json.dumps([predictor.predict(one.inputs) for one in golden]))
    return answers


def load_own(settings: Settings, checkpoint: Path, say: Say | None = None) -> Loaded:
    """Load a checkpoint as a server would, with all gates but those that it decides itself; raises `ServeError`."""
    from serve.model.loader import ModelLoader  # brings torch

    sha256 = durable_files.hash_file(checkpoint)
    # What a server may unpickle is that server's decision, and a signature comes after this.
    allowed = replace(settings, allowed_pickles=frozenset({sha256}), verify_key=(), memory="unchecked")
    return ModelLoader(allowed, say=say).load(Stored(checkpoint, sha256, checkpoint.stat().st_size), Manifest())
