"""Flask under gunicorn's threads: what most people would write."""

import models
import torch
from flask import Flask, Response, request

app = Flask(__name__)
model = None


def live():
    global model  # loaded after the fork, as torch wants it
    if model is None:
        model = models.load()
    return model


@app.get("/ready")
def ready():
    live()
    return {}


@app.post("/json")
def predict():
    with torch.inference_mode():
        return {"outputs": live()(torch.tensor(request.get_json()["inputs"], dtype=torch.float32)).tolist()}


@app.post("/binary")
def predict_binary():
    with torch.inference_mode():
        outputs = live()(models.from_bytes(request.get_data()))
    return Response(outputs.numpy().tobytes(), mimetype="application/octet-stream")
