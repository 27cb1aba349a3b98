"""The smallest predictor, and a server of models that answer with it; no torch."""

from __future__ import annotations

import numpy

from serve.checkpoint.provenance import Provenance
from serve.errors import InputError
from serve.gateway.server import Server
from serve.model.answers import ArrayForm
from serve.model.slot import Generation
from serve.settings.settings import load_settings


class Times:
    """Multiplies numbers."""

    expected_shape = (None,)
    inputs = (ArrayForm("inputs", "float32", (None,)),)
    outputs = (ArrayForm("outputs", "float32", (None,)),)
    can_batch = True
    takes_images = joins_arrays = False
    example = (1.0, 2.0)

    def __init__(self, factor: float = 2) -> None:
        self.factor = factor

    def prepare(self, inputs):
        if not isinstance(inputs, list):
            raise InputError("the inputs: expected a list", self.expected_shape)
        return numpy.array(inputs, "float32")

    def prepare_arrays(self, arrays):
        return arrays["inputs"]

    def run(self, taken):
        return self.factor * taken

    def postprocess(self, given):
        return given.tolist()

    def postprocess_arrays(self, given):
        return {"outputs": given}

    def count_rows(self, taken):
        return len(taken)

    def batch_key(self, taken):
        return taken.dtype

    def stack(self, several):
        return numpy.concatenate(several)

    def compare_alone(self, taken, shared, rows, place):
        return float(abs(self.run(taken) - shared).max())

    def split(self, given, rows):
        return numpy.split(given, numpy.cumsum(rows)[:-1])

    def predict(self, inputs):
        return self.postprocess(self.run(self.prepare(inputs)))


def make_server(directory, toml='model = "m:M"\ncheckpoints = "ck"\n') -> Server:
    """A server with these settings, whose models are not live."""
    (directory / "serve.toml").write_text(toml)
    return Server(load_settings({}, directory))


def go_live(instance, predictor=None, version="v1", generation=1, sha256="a" * 64) -> Generation:
    """Make a predictor live, as the reloader does; return what it replaced."""
    settings = instance.settings
    provenance = Provenance(settings.name, version, generation, sha256, "d", settings.label)
    return instance.slot.swap(Generation(predictor or Times(), provenance, {"format": "torch"}))
