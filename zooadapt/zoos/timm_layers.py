"""How timm's own layers read the image, where they differ from torch's convolutions."""

import math
from typing import Any

from timm.layers import (
    ScaledStdConv2d,
    ScaledStdConv2dSame,
    SpaceToDepth,
    StdConv2d,
    StdConv2dSame,
)
from timm.models.gemma4_vit import Gemma4PatchEmbed
from timm.models.naflexvit import NaFlexEmbeds
from torch import nn

from zooadapt.types import Gain, Layer

_SCALED = (ScaledStdConv2d, ScaledStdConv2dSame)
_STANDARDISED = (*_SCALED, StdConv2d, StdConv2dSame)
"""Convolutions that standardise their weight in every forward pass."""


def layer(model: nn.Module, name: str, chans: int) -> Layer | None:
    """How the module `name` of a model with `chans` channels applies its weight to the image.

    None where it does so as torch's own layers do.
    """
    module, parent = model.get_submodule(name), model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, _SCALED):
        return Layer(use="standardise", gain=_gain(name, module))
    if isinstance(module, _STANDARDISED):
        return Layer(use="standardise")
    if isinstance(module, nn.Conv2d) and module.in_channels != chans:
        blocks = next((m.bs**2 for m in model.modules() if isinstance(m, SpaceToDepth)), 0)
        return Layer(pixels=blocks) if blocks else None
    if isinstance(module, nn.Linear) and isinstance(parent, NaFlexEmbeds | Gemma4PatchEmbed):
        return _patches(parent, module.in_features // chans)
    return None


def _patches(embeds: Any, pixels: int) -> Layer:
    if isinstance(embeds, Gemma4PatchEmbed):
        return Layer(pixels, channels_last=False, use="shift")
    return Layer(pixels, channels_last=embeds.channels_last)


def _gain(name: str, module: Any) -> Gain:
    fan_in = module.weight[0].numel()
    return Gain(f"{name}.gain", gamma=module.scale * math.sqrt(fan_in), eps=module.eps)
