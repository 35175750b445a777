"""Compute W' = W·M for every stem; `exactness` tells whether the model then computes base(M·x)."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from zooadapt.targets import Scheme
from zooadapt.types import Gain, Stem


def contract(weight: Tensor, matrix: Tensor) -> Tensor:
    """Compute W·M from (outer, B, inner) and (B, N): (outer, N, inner) in the dtype of `weight`.

    W·M is computed in float32 (in float64 for a float64 weight) and rounded once, as in timm. A
    source channel with coefficient 0 is left out of the sum, because 0·Inf is NaN and -0.0 + 0 is
    0.0. Under `repeat` the result equals timm's bit for bit: a single source channel is only
    scaled, and channels with coefficient 1 are summed by the same reduction as in timm.
    """
    wide = weight if weight.dtype == torch.float64 else weight.float()
    columns = [_mix(wide, column) for column in matrix.to(wide).unbind(dim=1)]
    return torch.stack(columns, dim=1).to(weight.dtype)


def _mix(wide: Tensor, column: Tensor) -> Tensor:
    """The filter of one target channel: (outer, inner) from (outer, B, inner) and (B,)."""
    used = column.nonzero().flatten()
    scaled = wide.index_select(1, used) * column[used].view(1, -1, 1)
    return scaled.sum(dim=1)


def mix_images(images: Tensor, matrix: Tensor) -> Tensor:
    """M·x, (batch, B, *size) in the dtype of `images`, from (batch, N, *size) and M, (B, N)."""
    return torch.einsum("kc,bc...->bk...", matrix.to(images), images)


def mix_statistics(values: Sequence[float], matrix: Tensor) -> list[float]:
    """The mean or std of each of the N target channels, from those of the B source channels.

    value_N[c] = Σₖ|M[k,c]|·valueₖ / Σₖ|M[k,c]|. For a column of zeros it is the plain average.
    Where `values` is empty, because none are stated, so is the result.
    """
    if not values:
        return []
    source = torch.tensor(list(values), dtype=torch.float64)
    weights = matrix.abs()
    weights = torch.where(weights.sum(dim=0, keepdim=True) == 0, 1.0, weights)
    mixed = (weights * source[:, None]).sum(dim=0) / weights.sum(dim=0)
    return [round(value, 12) for value in mixed.tolist()]


def adapt(
    tensors: Mapping[str, Tensor], stems: Iterable[Stem], scheme: Scheme, matrix: Tensor
) -> dict[str, Tensor]:
    """The tensors of all stems, adapted by a (B, N) `matrix`: contiguous, with their dtypes kept.

    Each weight W becomes W·M, whose channel axis is N/B times as long. If the scheme corrects the
    gain and the stem has one, the effective weight E is adapted instead of W. E is what the forward
    pass convolves with: W standardised, times the gain. The gain is set to the norm of E·M, so that
    the forward pass uses E·M minus its mean, the nearest it can come to E·M; see `exactness`.
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
    """The float64 result of `adapt`, without the rounding to the stored dtypes."""
    return adapt({n: t.double() for n, t in tensors.items()}, stems, scheme, matrix)


def roll(tensor: Tensor, stem: Stem, chans: int) -> Tensor:
    """A wrong stem for the control: its `chans` image channels rolled by one, or its sign flipped.

    The sign is flipped if rolling changes nothing: with one channel, or if all are equal.
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
    """The weight that the forward pass convolves with: standardised per filter, times the gain."""
    flat = weight.flatten(1)
    variance = flat.var(dim=1, unbiased=False, keepdim=True)
    standard = (flat - flat.mean(dim=1, keepdim=True)) / torch.sqrt(variance + rule.eps)
    scale = gain.reshape(-1, 1) * rule.gamma / math.sqrt(flat.shape[1])
    return (standard * scale).reshape(weight.shape)


def _making_up(weight: Tensor, rule: Gain) -> Tensor:
    """The gain (filters, 1, 1, 1) with which standardising `weight` removes only its mean."""
    flat = weight.flatten(1)
    norm = torch.sqrt(flat.var(dim=1, unbiased=False) + rule.eps)
    return (norm * math.sqrt(flat.shape[1]) / rule.gamma).reshape(-1, 1, 1, 1)
