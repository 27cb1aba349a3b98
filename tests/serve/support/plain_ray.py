"""A deployment as Ray's own pages have it: weights that `user_config` names, and nothing of this project."""

from __future__ import annotations

import torch
from ray import serve
from safetensors.torch import load_file
from starlette.responses import JSONResponse


class Plain:
    def __init__(self) -> None:
        self._model, self._generation = torch.nn.Linear(4, 2), 0

    def reconfigure(self, config: dict) -> None:
        state = load_file(config["path"])
        self._model.load_state_dict({key.partition(".")[2]: value for key, value in state.items()})
        self._generation = config["generation"]

    async def __call__(self, request) -> JSONResponse:
        stated, generation = await request.json(), self._generation
        with torch.inference_mode():
            outputs = self._model(torch.tensor(stated["inputs"])).tolist()
        return JSONResponse({"outputs": outputs}, headers={"X-Model-Generation": str(generation)})


app = serve.deployment(Plain).bind()
