"""A model in a process of one's own, swapped while it is used: `HotModel(Net, "checkpoints").predict(inputs)`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from serve.errors import ModelError, NotLiveError
from serve.inference.model_instance import ModelInstance
from serve.settings.settings import load_settings


class Answer(NamedTuple):
    """The outputs of one request, and what gave them, as `POST /predict` has it."""

    outputs: object
    provenance: Mapping[str, object]


class HotModel:
    """A model whose checkpoints are watched, with the promises of the server: no mixed version, no refused bytes.

    Threads may share one. Processes that share a store move at the same instant; each makes its own, after it was
    forked.

    Args:
        model: the class, or `"module:Class"`.
        checkpoints: the watched place: one checkpoint that is overwritten, a directory, or a URL.
        wait_s: seconds in which a first checkpoint must be live; 0 does not wait.
        settings: keys of `serve.toml`, for example `store`, `device` or `verify_key`.

    Raises:
        SettingsError: a setting cannot be used.
        ModelError: the class cannot be imported by its name.
        NotLiveError: nothing was live in time; the message states what keeps it.
    """

    def __init__(self, model: type | str, checkpoints: str | Path, wait_s: float = 60.0, **settings: object) -> None:
        keys = {**settings, "model": _name_of(model), "checkpoints": str(checkpoints)}
        self._instance = ModelInstance(load_settings({}, Path.cwd(), keys).find())
        self._process = os.getpid()
        self._instance.start()
        until_s = time.monotonic() + wait_s
        while self._instance.slot.live is None and self._instance.is_reloading and time.monotonic() < until_s:
            time.sleep(0.01)
        if wait_s and self._instance.slot.live is None:
            self.close()
            raise NotLiveError(self.verdict, hint="publish a checkpoint there: serve publish FILE --to DIR")

    @property
    def verdict(self) -> str:
        """What the reloader found when it looked last."""
        return self._instance.reloader.status.verdict

    def predict(self, inputs: object) -> Any:
        """Answer inputs as `POST /predict` has them, or arrays, with outputs as JSON has them. Raises `InputError` for
        what does not fit the model, `NotLiveError` while none is live."""
        return self.answer(inputs).outputs

    def answer(self, inputs: object) -> Answer:
        """Answer one request, and state what gave the answer; raises what `predict` does."""
        if os.getpid() != self._process:
            raise NotLiveError("a HotModel that was made in another process", hint="make one in each, after the fork")
        with self._instance.slot.lease() as generation:
            return Answer(generation.predictor.predict(inputs), generation.provenance.as_json())

    def close(self) -> None:
        """End the watching; a model that is live still answers."""
        self._instance.stop()

    def __enter__(self) -> HotModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _name_of(model: type | str) -> str:
    if isinstance(model, str):
        return model
    if "<locals>" in model.__qualname__:
        raise ModelError(f"{model.__qualname__}: expected a class that can be imported", hint="define it in a module")
    return f"{model.__module__}:{model.__qualname__}"
