"""MLServer's runtime: the V2 protocol, JSON."""

import models
import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Runtime(MLModel):
    async def load(self):
        self.module = models.load(directory=self.settings.parameters.uri)
        return True

    async def predict(self, payload):
        rows = torch.from_numpy(NumpyCodec.decode_input(payload.inputs[0]))
        with torch.inference_mode():
            outputs = self.module(rows).numpy()
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("outputs", outputs)])
