"""The matrix M of each scheme, by which stems are adapted from B to N channels.

For B source and N target channels a scheme gives a (B, N) matrix M. Column c states how the filter
of target channel c is summed from those of the source channels. A stem W becomes W' = W·M along
its channel axis, so that ``adapted(x) == base(M·x)`` for every image x with N channels. README.md
has a table of M[k, c]. `preserve` has the matrix of `repeat`: it differs in the gain of stems that
standardise their weight (see `contract`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from zooadapt.targets import Band, Bands, check_scheme, get_scheme


def repeat(source: int, target: int) -> Tensor:
    """timm's rule: one channel gets the sum; several get the source channels in turn, times B/N."""
    if target == 1:
        return torch.ones(source, 1, dtype=torch.float64)
    matrix = torch.zeros(source, target, dtype=torch.float64)
    channels = torch.arange(target)
    matrix[channels % source, channels] = source / target
    return matrix


def pad(source: int, target: int) -> Tensor:
    """The identity matrix, cut or padded with zeros to N columns."""
    return torch.eye(source, target, dtype=torch.float64)


def mean(source: int, target: int) -> Tensor:
    """Each source channel reads the mean of the N channels, so a grey image stays grey."""
    return torch.full((source, target), 1 / target, dtype=torch.float64)


VISIBLE = (380.0, 700.0)
"""The range of visible wavelengths in nm, both ends included."""
SAME = 50.0
"""A band at most this far from a base channel, in nm, is its own, whether visible or not."""
REACH = 400.0
"""A band farther than this from every base channel, in nm, is "far"."""


def nearest(source: Bands, target: Bands) -> Tensor:
    """Match bands to base channels by name, else by wavelength. A band is of one of four kinds:

    - own: it has a base channel's name, or is visible, or lies within SAME of a base channel. It
      takes the filter of the nearest base channel, or of all that it covers if it covers several
      (panchromatic). M[k, c] = 1 / (number of own bands that take k), so they share the filter.
    - near: it lies within REACH, such as the near infrared. It takes the filter of the nearest base
      channel. M[k, c] = 1 / (number of near bands that take k).
    - far: any other band, such as short-wave infrared, thermal or radar. It takes all filters.
      M[k, c] = 1 / (B · number of far bands).
    - explicit: its weights are given by the user.

    So an image whose own bands repeat the base's channels, with 0 in all other bands, gives the
    base's output. The near bands and the far bands each add one more copy of the filters. If all
    bands are near or far, M is scaled so that its entries sum to B, as those of `repeat` do.

    Raises Unsupported if the base's or the target's channels have no names, or if weights are given
    for a base channel that the model doesn't have.
    """
    check_scheme("nearest", source, target)
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
    """The band's kind (own, near, far or explicit) and the base channels whose filter it takes."""
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
    """The sensor's red, green and blue bands keep the base's filters; the other bands get 0.

    Raises Unsupported if the base isn't RGB, or if the sensor lacks one of the three bands.
    """
    check_scheme("rgb-only", source, target)
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
    """The (B, N) float64 matrix of a scheme. A number stands for that many unnamed channels.

    Raises KeyError for an unknown scheme, ValueError for a channel count below 1, and Unsupported
    if the scheme has no matrix for these channels.
    """
    source, target = (
        Bands.counted(bands) if isinstance(bands, int) else bands for bands in (source, target)
    )
    if len(source) < 1 or len(target) < 1:
        raise ValueError(f"channel counts must be at least 1, not {len(source)} and {len(target)}")
    return _RULES[get_scheme(scheme).name](source, target)
