"""On the trainer's side: a file of golden requests, whose missing answers are computed by the model that is published.

The model class and all that belongs to it come from the same settings as the server's.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from serve.checkpoint.manifest import Golden, Manifest, Stored, golden_issues, parse_golden
from serve.errors import PublishError
from serve.settings.settings import load_settings


def read_golden(path: Path, checkpoint: Path, model: str | None = None) -> list[dict[str, object]]:
    """Read golden requests, and compute the answers that the file leaves out.

    Args:
        path: a JSON list of `{"inputs": …}`, each with `outputs`, `rtol` and `atol` where they are given.

    Raises:
        PublishError: the file is of another form.
        ServeError: the model cannot be loaded or does not answer.
    """
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
        answers = _ask([golden[place] for place in missing], checkpoint, model)
        for place, answer in zip(missing, answers):
            golden[place] = replace(golden[place], outputs=answer)
    return [one.as_json() for one in golden]


def _ask(golden: list[Golden], checkpoint: Path, model: str | None) -> list[object]:
    settings = load_settings(os.environ, Path.cwd()).find(model)
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    # The trainer's own file: what a server may unpickle is that server's decision, and a signature comes after this.
    allowed = replace(settings, allowed_pickles=frozenset({sha256}), verify_key=(), memory="unchecked")
    from serve.model.loader import ModelLoader  # brings torch

    stored = Stored(checkpoint, sha256, checkpoint.stat().st_size)
    predictor = ModelLoader(allowed).load(stored, Manifest()).predictor
    answers: list[object] = json.loads(json.dumps([predictor.predict(one.inputs) for one in golden]))
    return answers
