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
``nearest``   By wavelength, for named bands: see `nearest`.
``rgb-only``  1 where band c is the sensor's own band for base channel k, else 0.
============  =====================================================================
"""

from collections.abc import Callable

import torch
from torch import Tensor

from zooadapt.adapt.compatible import check
from zooadapt.targets import Band, Bands, get_scheme


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


VISIBLE = (380.0, 700.0)
"""Wavelengths in nm, both included."""
SAME = 50.0
"""A band this near to a base channel, in nm, is one of its own, visible or not."""
REACH = 400.0
"""A band farther than this from every base channel, in nm, is near none."""


def nearest(source: Bands, target: Bands) -> Tensor:
    """By name, else by wavelength. Each band is one of four kinds:

    - its own: it has a base channel's name, or is visible or within SAME of one. It reads the
      nearest base channel, or all whose centres it covers if it covers several (panchromatic).
      M[k, c] = 1 / (number of such bands that read k): together they make up the base's filter.
    - near: no farther than REACH, such as the near infrared. It reads the nearest base channel.
      M[k, c] = 1 / (number of such bands that read k).
    - far: any other, such as short-wave infrared, thermal or radar. It reads all base channels.
      M[k, c] = 1 / (B · number of far bands).
    - explicit: its weights are given.

    So an image whose own bands repeat the base's, with 0 elsewhere, gives the base's output; near
    and far bands add one more copy each. Where no band is any base channel's own and none is
    explicit, M is scaled so that its entries sum to B, as those of `repeat` do.

    Raises Unsupported where the base's channels have neither names nor wavelengths, or where
    weights are given for a base channel that it doesn't have.
    """
    check("nearest", source, target)
    kinds = [_kind(band, source) for band in target.channels]
    matrix = torch.zeros(len(source), len(target), dtype=torch.float64)
    for column, (band, (kind, read)) in enumerate(zip(target.channels, kinds, strict=True)):
        for k in read:
            alike = sum(kind == other and k in others for other, others in kinds)
            matrix[k, column] = 1 / (alike * (len(source) if kind == "far" else 1))
        for name, weight in band.weights:
            matrix[source.names.index(name), column] = weight
    if all(kind in ("near", "far") for kind, _ in kinds):
        matrix *= len(source) / matrix.sum()
    return matrix


def _kind(band: Band, source: Bands) -> tuple[str, tuple[int, ...]]:
    """own, near, far or explicit, and the base channels that the band reads."""
    names = [channel.name.casefold() for channel in source.channels]
    if band.weights:
        return "explicit", ()
    if band.name.casefold() in names:
        return "own", (names.index(band.name.casefold()),)
    apart = [
        abs(band.wavelength - channel.wavelength)
        for channel in source.channels
        if band.wavelength is not None and channel.wavelength is not None
    ]
    if len(apart) < len(source) or min(apart) > REACH:
        return "far", tuple(range(len(source)))
    closest = (apart.index(min(apart)),)
    covered = tuple(k for k, distance in enumerate(apart) if distance <= band.width / 2)
    if len(covered) > 1:
        return "own", covered
    visible = band.wavelength is not None and VISIBLE[0] <= band.wavelength <= VISIBLE[1]
    return "own" if visible or min(apart) <= SAME else "near", closest


def rgb_only(source: Bands, target: Bands) -> Tensor:
    """The base's filters unchanged for the sensor's own red, green and blue; the rest unread.

    Raises Unsupported where the base isn't RGB or the sensor hasn't all three.
    """
    check("rgb-only", source, target)
    matrix = torch.zeros(len(source), len(target), dtype=torch.float64)
    for k, name in enumerate(target.rgb):
        matrix[k, target.names.index(name)] = 1
    return matrix


def _counted(rule: Callable[[int, int], Tensor]) -> Callable[[Bands, Bands], Tensor]:
    return lambda source, target: rule(len(source), len(target))


_RULES: dict[str, Callable[[Bands, Bands], Tensor]] = {
    "repeat": _counted(repeat),
    "preserve": _counted(repeat),
    "pad": _counted(pad),
    "mean": _counted(mean),
    "nearest": nearest,
    "rgb-only": rgb_only,
}


def matrix(scheme: str, source: int | Bands, target: int | Bands) -> Tensor:
    """The (B, N) float64 matrix of a scheme; a number stands for so many unnamed channels.

    Raises KeyError for an unknown scheme, ValueError for channel counts below 1, and Unsupported
    where the scheme has no matrix for these channels.
    """
    source, target = (
        Bands.counted(bands) if isinstance(bands, int) else bands for bands in (source, target)
    )
    if len(source) < 1 or len(target) < 1:
        raise ValueError(f"channel counts must be at least 1, not {len(source)} and {len(target)}")
    return _RULES[get_scheme(scheme).name](source, target)
