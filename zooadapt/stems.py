"""Which tensors read the image, and along which axis: found by building the model twice."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from timm.layers import (
    ScaledStdConv2d,
    ScaledStdConv2dSame,
    SpaceToDepth,
    StdConv2d,
    StdConv2dSame,
)
from timm.models.gemma4_vit import Gemma4PatchEmbed
from timm.models.naflexvit import NaFlexEmbeds
from torch import Tensor, nn

from zooadapt.errors import StemError, Unsupported
from zooadapt.records import Gain, Stem, Use
from zooadapt.schemes import contract, pad
from zooadapt.targets import Scheme

_SCALED = (ScaledStdConv2d, ScaledStdConv2dSame)
_STANDARDISED = (*_SCALED, StdConv2d, StdConv2dSame)
"""Convolutions that standardise their weight in every forward pass."""


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
    if isinstance(module, _STANDARDISED):
        return "standardise"
    return "shift" if isinstance(parent, Gemma4PatchEmbed) else "plain"


def _gain(path: str, module: Any) -> Gain:
    fan_in = module.weight[0].numel()
    return Gain(f"{path}.gain", gamma=module.scale * math.sqrt(fan_in), eps=module.eps)


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        return f"{type(module).__name__} with {module.in_channels} inputs, {module.groups} group(s)"
    return type(module).__name__


def adapt(
    tensors: Mapping[str, Tensor], stems: Iterable[Stem], scheme: Scheme, matrix: Tensor
) -> dict[str, Tensor]:
    """The tensors of all stems for the N channels of a (B, N) `matrix`, contiguous, dtypes kept.

    Each weight becomes W·M, its channel axis N/B as long. Where the scheme keeps the gain right and
    the stem has one, the effective weight E, standardised and multiplied by its gain as in the
    forward pass, takes the place of W, and the gain is set to the norm of E·M: the forward pass
    then uses E·M less its mean, of all weights it can use the nearest to E·M; see `exact`.
    """
    adapted: dict[str, Tensor] = {}
    for stem in stems:
        if stem.gain and scheme.corrects_gain:
            adapted |= _with_gain(tensors, stem, stem.gain, matrix)
        else:
            adapted |= {name: tensors[name] for name in stem.tensors}
            adapted[stem.name] = _contracted(tensors[stem.name], stem, matrix)
    return adapted


def unrounded(
    tensors: Mapping[str, Tensor], stems: Iterable[Stem], scheme: Scheme, matrix: Tensor
) -> dict[str, Tensor]:
    """What `adapt` gives before it is rounded to the stored dtype, in float64."""
    return adapt({n: t.double() for n, t in tensors.items()}, stems, scheme, matrix)


def exact(stem: Stem, scheme: Scheme, matrix: Tensor) -> bool:
    """Whether the adapted model computes base(M·x) but for rounding.

    - A weight used as it is: always.
    - An image shifted by a constant, W(x + s): where M keeps the constant, the weights of every
      source channel summing to 1. For `repeat`'s matrix, N = 1 and multiples of B.
    - A standardised weight with a gain that is kept right: it loses its mean, and that of E·M is 0,
      as that of E, where every source channel has the same sum of weights; the same N.
    - Any stem under the identity.
    """
    source, target = matrix.shape
    sums = matrix.sum(dim=1)
    if stem.use == "plain" or (source == target and torch.equal(matrix, pad(source, target))):
        return True
    if stem.use == "shift":
        return torch.allclose(sums, torch.ones_like(sums))
    even = torch.allclose(sums, sums[0].expand_as(sums))
    return stem.gain is not None and scheme.corrects_gain and even


def roll(tensor: Tensor, stem: Stem, chans: int) -> Tensor:
    """The stem with its `chans` image channels rolled by one, or its sign flipped.

    The sign is flipped where rolling changes nothing: with one channel, or all the same.
    """
    view = tensor.reshape(stem.outer, chans, stem.inner)
    rolled = view.roll(1, dims=1)
    wrong = -view if rolled.equal(view) else rolled
    return wrong.reshape(tensor.shape)


def _with_gain(
    tensors: Mapping[str, Tensor], stem: Stem, rule: Gain, matrix: Tensor
) -> dict[str, Tensor]:
    weight, gain = tensors[stem.name], tensors[rule.name]
    wanted = _contracted(_effective(weight.double(), gain.double(), rule), stem, matrix)
    making_up = _making_up(wanted, rule)
    return {stem.name: wanted.to(weight.dtype), rule.name: making_up.to(gain.dtype)}


def _contracted(weight: Tensor, stem: Stem, matrix: Tensor) -> Tensor:
    source, target = matrix.shape
    shape = list(weight.shape)
    shape[stem.axis] = shape[stem.axis] // source * target
    adapted = contract(weight.reshape(stem.outer, source, stem.inner), matrix)
    return adapted.reshape(shape).contiguous()


def _effective(weight: Tensor, gain: Tensor, rule: Gain) -> Tensor:
    """The weight that the forward pass convolves with: standardised per filter, times its gain."""
    flat = weight.flatten(1)
    variance = flat.var(dim=1, unbiased=False, keepdim=True)
    standard = (flat - flat.mean(dim=1, keepdim=True)) / torch.sqrt(variance + rule.eps)
    scale = gain.reshape(-1, 1) * rule.gamma / math.sqrt(flat.shape[1])
    return (standard * scale).reshape(weight.shape)


def _making_up(weight: Tensor, rule: Gain) -> Tensor:
    """The gain (filters, 1, 1, 1) under which standardising `weight` takes away only its mean."""
    flat = weight.flatten(1)
    norm = torch.sqrt(flat.var(dim=1, unbiased=False) + rule.eps)
    return (norm * math.sqrt(flat.shape[1]) / rule.gamma).reshape(-1, 1, 1, 1)


def _shapes(model: nn.Module) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _listed(names: Iterable[str]) -> str:
    names = list(names) or ["none"]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
