"""Small architectures of torch.nn: what people put behind a server, one of each kind.

Each entry makes a module, and says what inputs it takes.
"""

from __future__ import annotations

import torch
from torch import nn


class Picked(nn.Module):
    """The first of what a layer gives, as recurrent layers and attentions give more."""

    def __init__(self, layer, *more):
        super().__init__()
        self.layer, self.more = layer, more

    def forward(self, rows):
        given = self.layer(*([rows] * (1 + len(self.more))))
        return given[0] if isinstance(given, tuple) else given


class Sum(nn.Module):
    """A layer of whole numbers."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, rows):
        return self.layer(rows).sum(-1)


class Forces(nn.Module):
    """Minus the gradient of an energy, as interatomic potentials answer it."""

    def __init__(self, how):
        super().__init__()
        self.energy, self.how = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1)), how

    def forward(self, rows):
        if self.how == "func":
            return -torch.func.vmap(torch.func.grad(lambda row: self.energy(row).sum()))(rows)
        with torch.enable_grad():
            places = rows.clone().requires_grad_()
            energy = self.energy(places).sum()
            if self.how == "grad":
                return -torch.autograd.grad(energy, places, create_graph=True)[0]
            energy.backward()
            return -places.grad


class Rotary(nn.Module):
    """A complex buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("turn", torch.polar(torch.ones(4), torch.randn(4)))
        self.line = nn.Linear(8, 8)

    def forward(self, rows):
        return torch.view_as_real(torch.view_as_complex(self.line(rows).reshape(-1, 4, 2)) * self.turn).flatten(1)


class TiedLanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.head = nn.Linear(8, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, rows):
        return self.head(self.body(self.embed(rows)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))

    def forward(self, rows):
        return self.head(self.body(rows) + rows)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 2, stride=2), nn.ConvTranspose2d(6, 3, 2, stride=2)

    def forward(self, rows):
        return torch.cat([self.up(self.down(rows)), rows], 1)


class Pointer(nn.Module):
    """A raw parameter, a list and a dictionary of them."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.randn(8, 4))
        self.several = nn.ParameterList([nn.Parameter(torch.randn(4)) for _ in range(2)])
        self.named = nn.ParameterDict({"a": nn.Parameter(torch.randn(4))})

    def forward(self, rows):
        return rows @ self.one + self.several[0] * self.several[1] + self.named["a"]


class Versioned(nn.Linear):
    """Asks for the version with which it was saved, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *others):
        if metadata.get("version") != 2:
            raise ValueError(f"version should be 2 instead of {metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, metadata, *others)


FLAT, LINE, PLANE, CUBE, WORDS, TIME = (2, 8), (2, 4, 8), (2, 3, 8, 8), (2, 3, 4, 4, 4), "words", (2, 5, 8)


def _layers():
    linear = nn.Linear
    norms = nn.utils
    yield from {
        "linear": (lambda: linear(8, 2), FLAT),
        "versioned": (lambda: nn.Sequential(Versioned(8, 2)), FLAT),
        "no bias": (lambda: linear(8, 2, bias=False), FLAT),
        "mlp": (lambda: nn.Sequential(linear(8, 8), nn.GELU(), nn.Dropout(), linear(8, 2)), FLAT),
        "half precision": (lambda: linear(8, 2).bfloat16(), FLAT),
        "double precision": (lambda: linear(8, 2).double(), FLAT),
        "lazy linear": (lambda: nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.LazyLinear(2)), FLAT),
        "lazy conv": (lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2)), PLANE),
        "prelu": (lambda: nn.Sequential(linear(8, 4), nn.PReLU(4)), FLAT),
        "raw parameters": (Pointer, FLAT),
        "complex": (Rotary, FLAT),
        "weight norm": (lambda: norms.weight_norm(linear(8, 2)), FLAT),
        "spectral norm": (lambda: norms.spectral_norm(linear(8, 2)), FLAT),
        "weight norm, parametrized": (lambda: norms.parametrizations.weight_norm(linear(8, 2)), FLAT),
        "spectral norm, parametrized": (lambda: norms.parametrizations.spectral_norm(linear(8, 2)), FLAT),
        "orthogonal": (lambda: norms.parametrizations.orthogonal(linear(8, 8)), FLAT),
        "bilinear": (lambda: Picked(nn.Bilinear(8, 8, 2), 1), FLAT),
        "tied model": (TiedLanguageModel, WORDS),
        "residual": (Residual, PLANE),
        "u-net": (UNet, PLANE),
        "embedding": (lambda: Sum(nn.Embedding(30, 4, padding_idx=0)), WORDS),
        "embedding bag": (lambda: nn.EmbeddingBag(30, 4, mode="mean"), WORDS),
        "attention": (lambda: Picked(nn.MultiheadAttention(8, 2, batch_first=True), 1, 1), TIME),
        "attention, keys apart": (
            lambda: Picked(nn.MultiheadAttention(8, 2, kdim=8, vdim=8, add_bias_kv=True), 1, 1),
            TIME,
        ),
        "encoder": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1), TIME),
        "norm first": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), TIME),
        "decoder": (lambda: Picked(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 1), TIME),
        "transformer": (lambda: Picked(nn.Transformer(8, 2, 1, 1, 16, batch_first=True), 1), TIME),
        "lstm": (lambda: Picked(nn.LSTM(8, 4, batch_first=True)), TIME),
        "deep bi-lstm": (lambda: Picked(nn.LSTM(8, 4, 2, batch_first=True, bidirectional=True)), TIME),
        "projected lstm": (lambda: Picked(nn.LSTM(8, 4, proj_size=2, batch_first=True)), TIME),
        "gru": (lambda: Picked(nn.GRU(8, 4, batch_first=True)), TIME),
        "bi-gru": (lambda: Picked(nn.GRU(8, 4, batch_first=True, bidirectional=True)), TIME),
        "rnn": (lambda: Picked(nn.RNN(8, 4, nonlinearity="relu", batch_first=True)), TIME),
        "lstm cell": (lambda: Picked(nn.LSTMCell(8, 4)), FLAT),
        "gru cell": (lambda: nn.GRUCell(8, 4), FLAT),
        "pixel shuffle": (lambda: nn.Sequential(nn.Conv2d(3, 12, 1), nn.PixelShuffle(2)), PLANE),
        "upsampling": (lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Upsample(scale_factor=2)), PLANE),
        "softmax": (lambda: nn.Sequential(linear(8, 3), nn.LogSoftmax(-1)), FLAT),
        "depthwise": (lambda: nn.Conv2d(3, 6, 3, groups=3, dilation=2), PLANE),
        "channels last": (lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), PLANE),
        "module dict": (lambda: nn.Sequential(*nn.ModuleDict({"a": linear(8, 4), "b": linear(4, 2)}).values()), FLAT),
    }.items()
    for name, kind, shape in (("1d", nn.Conv1d, LINE), ("2d", nn.Conv2d, PLANE), ("3d", nn.Conv3d, CUBE)):
        yield f"conv {name}", (lambda kind=kind, shape=shape: kind(shape[1], 2, 3, padding=1), shape)
    for name, kind, shape in (
        ("1d", nn.ConvTranspose1d, LINE),
        ("2d", nn.ConvTranspose2d, PLANE),
        ("3d", nn.ConvTranspose3d, CUBE),
    ):
        yield f"transposed {name}", (lambda kind=kind, shape=shape: kind(shape[1], 2, 3), shape)
    for kind, shape in ((nn.BatchNorm1d, LINE), (nn.BatchNorm2d, PLANE), (nn.BatchNorm3d, CUBE)):
        yield kind.__name__, (lambda kind=kind, shape=shape: kind(shape[1]), shape)
        yield (
            f"{kind.__name__} without statistics",
            (
                lambda kind=kind, shape=shape: kind(shape[1], affine=False, momentum=None),
                shape,
            ),
        )
    for kind, shape in ((nn.InstanceNorm1d, LINE), (nn.InstanceNorm2d, PLANE), (nn.InstanceNorm3d, CUBE)):
        yield (
            kind.__name__,
            (
                lambda kind=kind, shape=shape: kind(shape[1], affine=True, track_running_stats=True),
                shape,
            ),
        )
    for how in ("grad", "backward", *(["func"] if hasattr(torch, "func") else [])):
        yield f"forces by {how}", (lambda how=how: Forces(how), FLAT)
    yield "a scripted part", (lambda: nn.Sequential(torch.jit.script(nn.BatchNorm1d(8)), linear(8, 4)), FLAT)
    yield "a traced part", (lambda: nn.Sequential(torch.jit.trace(linear(8, 4), torch.ones(1, 8)), linear(4, 2)), FLAT)
    yield "group norm", (lambda: nn.GroupNorm(1, 3), PLANE)
    yield "layer norm", (lambda: nn.LayerNorm([4, 8]), LINE)
    if hasattr(nn, "RMSNorm"):
        yield "rms norm", (lambda: nn.RMSNorm(8), LINE)
    for kind in (nn.ELU, nn.Hardswish, nn.Mish, nn.SiLU, nn.Softplus, nn.Tanh, nn.GLU, nn.LeakyReLU):
        yield kind.__name__, (lambda kind=kind: nn.Sequential(linear(8, 4), kind()), FLAT)


ZOO = dict(_layers())


def rows_of(shape) -> torch.Tensor:
    """Inputs for a kind, the same for the same shape."""
    draw = torch.Generator().manual_seed(1)
    if shape == WORDS:
        return torch.randint(0, 30, (2, 5), generator=draw)
    return torch.randn(*shape, generator=draw)


def randomised(module: nn.Module) -> nn.Module:
    """A trained module: what begins as ones and zeros is neither."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor.float()) + 0.1)
    return module.eval()


class Served(nn.Module):
    """A kind of the zoo as a model class."""

    def __init__(self, kind: str):
        super().__init__()
        builder, shape = ZOO[kind]
        self.net = builder()
        self.example_inputs = rows_of(shape).tolist()

    def forward(self, rows):
        return self.net(rows)
