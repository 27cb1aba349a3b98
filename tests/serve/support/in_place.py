"""Model classes that work in place: on what they take, on what they give, on a request, or on what they keep."""

from __future__ import annotations

import numpy
import torch

RELU = torch.nn.functional.relu


@torch.jit.script
def _scripted(x: torch.Tensor) -> torch.Tensor:
    x[:, 0] = 3
    return x


def _by_numpy(x):
    x.numpy()[...] *= 2
    return x


def _scatter(x):
    x[x < 0] = 0
    return x


def _through_a_view(x):
    x.view(-1)[1:3].add_(1)
    return x


# Each returns what the layer takes; the example holds no number below 0.
WRITES = {
    "mul_": lambda x: x.mul_(2),
    "iadd": lambda x: x.__iadd__(1),
    "scatter": _scatter,
    "relu": lambda x: RELU(x, inplace=True),
    "clamp_": lambda x: x.clamp_(0, 1),
    "out": lambda x: torch.add(x, 1, out=x),
    "view": _through_a_view,
    "detach": lambda x: x.detach().sub_(3),
    "script": _scripted,
    "data": lambda x: x.data.mul_(2),
    "numpy": _by_numpy,
    "transposed": lambda x: x.t().contiguous().t_() if x.numel() < 0 else x.t_().mul_(3).t_(),
    "only large": lambda x: x.mul_(2) if bool((x > 50).any()) else x,
}


class Writing(torch.nn.Module):
    """Writes into its input."""

    example_inputs = ([1.0, 2.0, 3.0, 4.0],)

    def __init__(self, how="mul_", outputs=2):
        super().__init__()
        self.how, self.layer = how, torch.nn.Linear(4, outputs)

    def forward(self, x):
        return self.layer(WRITES[self.how](x))


class Named(Writing):
    """Writes into one of several inputs, of whole numbers."""

    example_inputs = {"x": [[1.0, 2.0, 3.0, 4.0]], "k": [[1, 2]]}  # noqa: RUF012 - as users write it

    def forward(self, x, k):
        k += 1
        return self.layer(x) * k


class Given(Writing):
    """Gives what is not its own: the input, a part of it, or memory that a later call fills anew."""

    def __init__(self, how="input"):
        super().__init__()
        self.how = how
        self.kept, self.turn, self.last = [torch.zeros(1, 2) for _ in range(3)], 0, None
        self.label = torch.zeros(1, dtype=torch.int64)

    def forward(self, x):
        if self.how == "input":
            return x
        if self.how == "part":
            return x[:, 1:3]
        if self.how == "weights":
            return self.layer.bias.expand(len(x), 2)
        if self.how == "label":
            return torch.argmax(self.layer(x), 1, out=self.label)
        if self.how == "scrubbed":  # what the call before has got is the input that this one empties
            if self.last is not None:
                self.last.zero_()
            self.last = x
            return x[:, :2]
        self.turn = (self.turn + 1) % (1 if self.how == "buffer" else 3)
        kept = self.kept[self.turn]
        kept.resize_(len(x), 2).copy_(self.layer(x))
        return kept


class Converting(Writing):
    """Converts in place what the module has given, which may be its own weights."""

    def __init__(self, how="layer"):
        super().__init__()
        self.how = how

    def forward(self, x):
        return self.layer.bias.unsqueeze(0) if self.how == "weights" else x if self.how == "input" else self.layer(x)

    def tensors_to_outputs(self, y):
        return y.sub_(1).mul_(2).tolist()


class Changing(Writing):
    """Changes the request itself while it converts it."""

    example_inputs = {"x": [[1.0, 2.0, 3.0]], "unit": "m"}  # noqa: RUF012 - as above

    def inputs_to_tensors(self, inputs):
        for row in inputs["x"]:
            row.append(1.0)
        return torch.tensor(inputs["x"]) * (1000 if inputs.pop("unit") == "km" else 1)

    def forward(self, x):
        return self.layer(x)


class Own(Writing):
    """Converts to an array of its own, and writes into it."""

    def __init__(self, how="mul_"):
        super().__init__()
        self.how, self.staged = how, torch.zeros(1, 4)

    def inputs_to_tensors(self, inputs):
        if self.how == "staged":
            return self.staged.resize_(len(inputs), 4).copy_(torch.tensor(inputs))
        return torch.from_numpy(numpy.array(inputs, "float32"))

    def forward(self, x):
        return self.layer(x if self.how == "staged" else x.mul_(2))


KINDS = (
    *(("Writing", how) for how in WRITES),
    ("Named", "mul_"),
    *(("Given", how) for how in ("input", "part", "weights", "scrubbed", "buffer", "ring", "label")),
    *(("Converting", how) for how in ("layer", "weights", "input")),
    ("Changing", "mul_"),
    ("Own", "mul_"),
    ("Own", "staged"),
)
