"""Channel adaptation as a matrix: (B, N) → M, and the contraction of a stem with it.

A scheme gives, for B source and N target channels, a (B, N) matrix M; column c says how target
channel c is made of the source channels. A stem W is adapted as W' = W·M along its channel axis,
so that for every image x with N channels ``adapted(x) == base(M·x)``.

============  =====================================================================
scheme        M[k, c]
============  =====================================================================
``repeat``    N = 1: 1 (the sum). N > 1: B/N where c mod B = k, else 0. N = B: identity.
              The rule of ``timm.models.adapt_input_conv`` (timm 1.0.31).
``preserve``  As ``repeat``; and where the model standardises the stem's weight and has a
              gain for it (ScaledStdConv), the gain is set so that the function is kept.
``pad``       1 where c = k, else 0: the first channels as they are, the rest unread.
``mean``      1/N: every channel gets the same filter.
============  =====================================================================
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def repeat(source: int, target: int) -> Tensor:
    """timm's rule: the sum for one channel, else the source channels in turn, scaled by B/N."""
    if target == 1:
        return torch.ones(source, 1, dtype=torch.float64)
    matrix = torch.zeros(source, target, dtype=torch.float64)
    channels = torch.arange(target)
    matrix[channels % source, channels] = source / target
    return matrix


def pad(source: int, target: int) -> Tensor:
    """The identity, cut or padded with zeros."""
    return torch.eye(source, target, dtype=torch.float64)


def mean(source: int, target: int) -> Tensor:
    """The mean of the N channels in every source channel: a grey image is seen as grey."""
    return torch.full((source, target), 1 / target, dtype=torch.float64)


@dataclass(frozen=True)
class Scheme:
    """How a model is adapted: a matrix for each (B, N), and what becomes of a stem's gain."""

    matrix: Callable[[int, int], Tensor]
    corrects_gain: bool = False


SCHEMES = {
    "repeat": Scheme(repeat),
    "preserve": Scheme(repeat, corrects_gain=True),
    "pad": Scheme(pad),
    "mean": Scheme(mean),
}


def matrix(scheme: str, source: int, target: int) -> Tensor:
    """The (source, target) float64 matrix of a scheme.

    Raises KeyError for an unknown scheme and ValueError for channel counts below 1.
    """
    if source < 1 or target < 1:
        raise ValueError(f"channel counts must be at least 1, not {source} and {target}")
    return SCHEMES[scheme].matrix(source, target)


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
    """M·x: images (batch, N, H, W) and (B, N) to (batch, B, H, W), in the dtype of `images`."""
    return torch.einsum("kc,bchw->bkhw", matrix.to(images), images)


def mix_statistics(values: Sequence[float], matrix: Tensor) -> list[float]:
    """Per-channel mean or std for the N target channels, from those of the B source channels.

    value_N[c] = Σₖ|M[k,c]|·valueₖ / Σₖ|M[k,c]|, the plain average where the column is all zero.
    """
    source = torch.tensor(list(values), dtype=torch.float64)
    weights = matrix.abs()
    weights = torch.where(weights.sum(dim=0, keepdim=True) == 0, 1.0, weights)
    mixed = (weights * source[:, None]).sum(dim=0) / weights.sum(dim=0)
    return [round(value, 12) for value in mixed.tolist()]
