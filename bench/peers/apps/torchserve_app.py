"""TorchServe's handler, for its batches; it takes the one class that it finds here."""

import json
from pathlib import Path

import models
import torch


class Handler:
    def initialize(self, context):
        self.model = models.load(directory=(Path(context.system_properties["model_dir"]) / "weights").read_text())

    def handle(self, requests, context):
        bodies = [request.get("body") or request.get("data") for request in requests]
        is_binary = isinstance(bodies[0], (bytes, bytearray))
        if is_binary and bodies[0][:1] == b"{":  # without a content type that TorchServe knows
            bodies, is_binary = [json.loads(body) for body in bodies], False
        rows = [models.from_bytes(b) if is_binary else torch.tensor(b["inputs"], dtype=torch.float32) for b in bodies]
        with torch.inference_mode():
            parts = self.model(torch.cat(rows)).split([len(row) for row in rows])
        if is_binary:
            return [part.numpy().tobytes() for part in parts]
        return [{"outputs": part.tolist()} for part in parts]
