"""FastAPI under uvicorn: what most people would write."""

import models
import torch
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

app = FastAPI()
model = models.load()


class Inputs(BaseModel):
    inputs: list


@app.get("/ready")
def ready():
    return {}


@app.post("/json")
async def predict(body: Inputs):
    with torch.inference_mode():
        return {"outputs": model(torch.tensor(body.inputs, dtype=torch.float32)).tolist()}


@app.post("/binary")
async def predict_binary(request: Request):
    body = await request.body()
    with torch.inference_mode():
        outputs = model(models.from_bytes(body))
    return Response(outputs.numpy().tobytes(), media_type="application/octet-stream")
