"""Real architectures of torchvision, timm and transformers, with random weights, as model classes."""

from __future__ import annotations

import os
import sys

import torch
from torch import nn

# Where the test has installed the three.
sys.path[:0] = [place for place in (os.environ.get("ARCHITECTURES"),) if place]

_LIBRARY = None
try:
    import torchvision
except RuntimeError:
    # The wheel of the index is built for CUDA; beside another torch it lacks its operators, which no classifier uses.
    for _module in [module for module in sys.modules if module.startswith("torchvision")]:
        del sys.modules[_module]
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for _operator in ("nms", "qnms"):
        _LIBRARY.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

_VISION = (
    *("resnet18", "resnet34", "resnet50", "resnext50_32x4d", "densenet121", "mobilenet_v2", "mobilenet_v3_small"),
    *("mobilenet_v3_large", "efficientnet_b0", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "squeezenet1_0"),
    *("squeezenet1_1", "mnasnet0_5", "mnasnet1_0", "regnet_y_400mf", "regnet_x_400mf", "convnext_tiny"),
)
_TIMM = (
    *("resnet10t", "regnetx_002", "regnety_002", "mobilenetv3_small_050", "efficientnet_lite0", "mixnet_s"),
    *("ghostnet_050", "lcnet_050", "mobilevit_xxs", "mobilevitv2_050", "edgenext_xx_small", "convnext_atto"),
    *("convnextv2_atto", "repvgg_a0", "dla34", "hrnet_w18_small", "skresnet18", "res2net50_26w_4s", "tinynet_e"),
    *("ese_vovnet19b_dw", "fbnetc_100", "spnasnet_100", "semnasnet_075", "hardcorenas_a", "rexnet_100", "dpn48b"),
    *("poolformer_s12", "selecsls42", "nf_regnet_b0", "darknetaa53", "legacy_seresnet18", "gernet_s"),
)
_PATCHES = ("vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s32_224", "gmlp_s16_224", "resmlp_12_224")
_TEXT = (
    *("bert", "roberta", "distilbert", "albert", "electra", "gpt2", "gpt_neox", "opt", "bloom", "xlnet", "mpnet"),
    *("convbert", "deberta-v2", "fnet", "llama", "camembert", "ernie", "megatron-bert", "xlm-roberta", "roformer"),
)
REAL = {
    **{f"torchvision {name}": "image" for name in _VISION},
    **{f"timm {name}": "image" for name in (*_TIMM, *_PATCHES)},
    **{f"transformers {name}": "text" for name in _TEXT},
}
_SIZE, _WORDS, _LENGTH = 64, 100, 8


class Text(nn.Module):
    """A transformer of two layers."""

    def __init__(self, name: str):
        from transformers import AutoConfig, AutoModel

        super().__init__()
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        more = {"embedding_size": 32} if name in ("albert", "electra", "convbert", "roformer") else {}
        config = AutoConfig.for_model(name, vocab_size=_WORDS, pad_token_id=0, **sizes, **more)
        self.net = AutoModel.from_config(config)

    def forward(self, words):
        return self.net(words)[0]


def build(kind: str) -> nn.Module:
    source, _, name = kind.partition(" ")
    if source == "torchvision":
        return getattr(torchvision.models, name)(num_classes=10)
    if source == "transformers":
        return Text(name)
    import timm

    sized = {"img_size": _SIZE} if name in _PATCHES else {}
    return timm.create_model(name, num_classes=10, **sized)


def rows_of(kind: str, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    if REAL[kind] == "text":
        return torch.randint(1, _WORDS, (1, _LENGTH), generator=draw)
    return torch.randn(1, 3, _SIZE, _SIZE, generator=draw)


class Served(nn.Module):
    """One of them behind a server."""

    def __init__(self, kind: str):
        super().__init__()
        self.net = build(kind)
        self.example_inputs = rows_of(kind, 0).tolist()

    def forward(self, rows):
        return self.net(rows)
