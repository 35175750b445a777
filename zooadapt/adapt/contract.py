"""W' = W·M for every stem of a model, and whether the model then computes base(M·x)."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from zooadapt.adapt.schemes import pad
from zooadapt.targets import Scheme
from zooadapt.types import Gain, Stem


def contract(weight: Tensor, matrix: Tensor) -> Tensor:
    """W·M: (outer, B, inner) and (B, N) to (outer, N, inner), in the dtype of `weight`.

    Computed in float32 (float64 stays) and rounded once, as timm does. Channels with weight 0 take
    no part, so that an Inf or a -0.0 in one source channel stays where it belongs. Under `repeat`
    the result equals timm's bit for bit: a lone channel is scaled, all channels with weight 1 are
    summed by the same reduction.
    """
    wide = weight if weight.dtype == torch.float64 else weight.float()
    columns = [_mix(wide, column) for column in matrix.to(wide).unbind(dim=1)]
    return torch.stack(columns, dim=1).to(weight.dtype)


def _mix(wide: Tensor, column: Tensor) -> Tensor:
    """One target channel: (outer, B, inner) and (B,) to (outer, inner)."""
    used = column.nonzero().flatten()
    scaled = wide.index_select(1, used) * column[used].view(1, -1, 1)
    return scaled.sum(dim=1)


def mix_images(images: Tensor, matrix: Tensor) -> Tensor:
    """M·x: images (batch, N, *size) and (B, N) to (batch, B, *size), in the dtype of `images`."""
    return torch.einsum("kc,bc...->bk...", matrix.to(images), images)


def mix_statistics(values: Sequence[float], matrix: Tensor) -> list[float]:
    """Per-channel mean or std for the N target channels, from those of the B source channels.

    value_N[c] = Σₖ|M[k,c]|·valueₖ / Σₖ|M[k,c]|, the plain average where the column is all zero.
    """
    source = torch.tensor(list(values), dtype=torch.float64)
    weights = matrix.abs()
    weights = torch.where(weights.sum(dim=0, keepdim=True) == 0, 1.0, weights)
    mixed = (weights * source[:, None]).sum(dim=0) / weights.sum(dim=0)
    return [round(value, 12) for value in mixed.tolist()]


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
