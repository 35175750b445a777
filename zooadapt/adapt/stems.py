"""Which tensors read the image, and along which axis: found by building the model twice."""

import math
from collections.abc import Iterable, Mapping
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

from zooadapt.errors import StemError, Unsupported
from zooadapt.types import Gain, Stem, Use

_SCALED = (ScaledStdConv2d, ScaledStdConv2dSame)
_STANDARDISED = (*_SCALED, StdConv2d, StdConv2dSame)
"""Convolutions that standardise their weight in every forward pass."""
_STANDARDISED_ELSEWHERE = ("WeightStandardizedConv2d",)
"""The same of libraries that needn't be installed: transformers' BiT."""


def find(
    base: nn.Module, probe: nn.Module, chans: int, declared: Iterable[str]
) -> tuple[Stem, ...]:
    """The stems of `base`, which has `chans` input channels; `probe` is its like with one more.

    Both may be on the meta device. Every tensor whose shape differs between the two reads the
    image; their names must be those of the modules that the zoo itself has `declared`.

    Raises Unsupported where the stem is of a kind that isn't adapted, StemError where what was
    found contradicts what was declared.
    """
    shapes, probed = _shapes(base), _shapes(probe)
    if shapes.keys() != probed.keys():
        names = sorted(shapes.keys() ^ probed.keys())
        raise StemError(f"tensors {_listed(names)} come and go with the number of channels")
    changed = [name for name in shapes if shapes[name] != probed[name]]
    if not changed:
        raise Unsupported(
            "no tensor changes with the number of channels: the model reads the image through a "
            "fixed transform, such as a colour conversion"
        )
    expected = {f"{module}.weight" for module in declared}
    if set(changed) != expected:
        raise StemError(
            f"the tensors that change with the number of channels are {_listed(changed)}, but the "
            f"model declares {_listed(sorted(expected))}"
        )
    return tuple(_stem(base, name, chans) for name in changed)


def _stem(base: nn.Module, name: str, chans: int) -> Stem:
    path = name.rpartition(".")[0]
    module = base.get_submodule(path)
    view = _view(base, path, module, chans)
    if view is None:
        raise Unsupported(f"{name} belongs to a {_kind(module)}, a kind of stem not adapted")
    outer, inner = view
    return Stem(
        name,
        axis=1,
        outer=outer,
        inner=inner,
        use=_use(base.get_submodule(path.rpartition(".")[0]), module),
        gain=_gain(path, module) if isinstance(module, _SCALED) else None,
    )


def _view(base: nn.Module, path: str, module: nn.Module, chans: int) -> tuple[int, int] | None:
    """(outer, inner) of a stem module's weight; None for a kind that isn't known."""
    if isinstance(module, nn.Conv2d | nn.Conv3d) and module.groups == 1:
        kernel = math.prod(module.kernel_size)
        if module.in_channels == chans:
            return module.out_channels, kernel
        pixels = next((m.bs**2 for m in base.modules() if isinstance(m, SpaceToDepth)), 0)
        if module.in_channels == chans * pixels:
            return module.out_channels * pixels, kernel
    if isinstance(module, nn.Linear) and module.in_features % chans == 0:
        embeds, pixels = base.get_submodule(path.rpartition(".")[0]), module.in_features // chans
        if isinstance(embeds, NaFlexEmbeds) and embeds.channels_last:
            return module.out_features * pixels, 1
        if isinstance(embeds, NaFlexEmbeds | Gemma4PatchEmbed):
            return module.out_features, pixels
    return None


def _use(parent: nn.Module, module: nn.Module) -> Use:
    if isinstance(module, _STANDARDISED) or type(module).__name__ in _STANDARDISED_ELSEWHERE:
        return "standardise"
    return "shift" if isinstance(parent, Gemma4PatchEmbed) else "plain"


def _gain(path: str, module: Any) -> Gain:
    fan_in = module.weight[0].numel()
    return Gain(f"{path}.gain", gamma=module.scale * math.sqrt(fan_in), eps=module.eps)


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        return f"{type(module).__name__} with {module.in_channels} inputs, {module.groups} group(s)"
    return type(module).__name__


def _shapes(model: nn.Module) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _listed(names: Iterable[str]) -> str:
    names = list(names) or ["none"]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
