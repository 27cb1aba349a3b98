"""The gates that a loaded model passes by answering, and the conclusions. Only workers import this."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Callable

from serve.checkpoint.formats import TORCHSCRIPT
from serve.errors import CheckpointError, TrialError
from serve.model import contract
from serve.model.compilation import optimize
from serve.model.examination import Examined, Examiner
from serve.model.interface import require_same_form
from serve.model.preload_gates import ReadPlan
from serve.model.tensor_versions import Versions
from serve.model.torch_predictor import TorchPredictor
from serve.model.warm_up import Candidate, HangingError, Tried, warm_up
from serve.settings.settings import Settings

Say = Callable[..., None]
# The longest trial of joined requests; an ordinary model needs less than a second.
_JOINED_S = 20.0


class Trial:
    """Tries loaded models."""

    def __init__(self, settings: Settings, say: Say) -> None:
        self._settings, self._say = settings, say
        self._hanging: dict[str, threading.Thread] = {}

    def require_ended(self, sha256: str) -> None:
        """Try nothing again whose last trial still runs: each would hold one more model for ever.

        Raises:
            TrialError: it still runs.
        """
        thread = self._hanging.pop(sha256, None)
        if thread is not None and thread.is_alive():
            self._hanging[sha256] = thread
            reason = "an earlier warm-up of it still runs in this worker"
            raise TrialError("warm-up", reason, hint="restart the worker if it never ends")

    def run(self, plan: ReadPlan, built: Any, predictor: TorchPredictor, live: Mapping[str, str]) -> TorchPredictor:
        """Try a model, and return it as it is to be served.

        Args:
            live: the form of the requests and answers of what is live; empty where nothing is.

        Raises:
            CheckpointError: it may not be served.
        """
        manifest = plan.manifest
        try:
            tried = self._try(plan, built, predictor)
        except HangingError as error:
            self._hanging[plan.stored.sha256] = error.thread
            raise
        require_same_form(manifest.interface, tried.form, "its manifest states")
        if self._settings.changed_interface == "refuse":
            require_same_form(live, tried.form, "the model that is live")
        predictor = replace(predictor, outputs=tried.outputs, interface=tried.form, origin=(plan.stored, manifest))
        if tried.examined is not None:
            predictor = self._conclude(predictor, tried.examined)
        return self._optimize(predictor, built.example_inputs, plan.format)

    def _try(self, plan: ReadPlan, built: Any, predictor: TorchPredictor) -> Tried[Examined]:
        settings, example, golden = self._settings, built.example_inputs, plan.manifest.golden
        known = [request.inputs for request in golden]
        patience_s = min(settings.warm_up_timeout_s / 2, _JOINED_S)
        versions = Versions(predictor.module)
        examiner = Examiner(built, predictor, example, known, versions, settings.max_batch_size, patience_s)
        validate, longer = getattr(built, "validate", None), contract.lengthen(settings, built)
        candidate = Candidate(predictor, example, golden, validate, longer, examiner.examine)
        tried = warm_up(candidate, settings.warm_up_sizes, settings.warm_up_timeout_s)
        if tried.examined is not None and tried.examined.written and settings.stateful == "refuse":
            raise CheckpointError(
                "stateful",
                f"{', '.join(tried.examined.written)}: expected weights that stay as they were published, "
                "found them changed by answering",
                hint='set stateful = "allow" where that is meant',
            )
        return tried

    def _conclude(self, predictor: TorchPredictor, examined: Examined) -> TorchPredictor:
        """Take over what was found out, and say what its author may not know."""
        if examined.alone_because:
            self._say("not_batched", reason=examined.alone_because)
        if examined.kept:
            self._say("state_kept", attributes=examined.kept)
        # Not one for both: a conversion takes place in the event loop, which must not wait for a run.
        turns = (threading.RLock(), threading.RLock()) if examined.kept else predictor.turns
        return replace(predictor, can_batch=not examined.alone_because, turns=turns, versions=examined.versions)

    def _optimize(self, predictor: TorchPredictor, example: object, format: str) -> TorchPredictor:
        """Take a quicker form of the module, if that is wanted and there is one."""
        how = self._settings.optimize
        if how == "off" or (how == "script" and format == TORCHSCRIPT):
            return predictor
        rows = (1, 2, self._settings.max_batch_size) if predictor.can_batch else (1,)
        verdict = optimize(predictor, example, how, rows, self._settings.warm_up_timeout_s)
        facts = {"reason": verdict.reason} if verdict.reason else {"gain": round(verdict.gain, 2)}
        self._say("not_optimized" if verdict.reason else "optimized", how=how, **facts)
        return verdict.predictor
