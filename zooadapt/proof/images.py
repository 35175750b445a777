"""Seeded random images to run models on, so that a proof needs no data set."""

import torch
from torch import Tensor

from zooadapt.adapt.contract import mix_images

_SEED = 20240117
_LEAST_SINGULAR = 1e-2
"""A matrix can make any image if its least singular value is this part of its largest, or more."""


def seeded_images(chans: int, size: tuple[int, ...]) -> Tensor:
    """Two different images, (2, chans, *size), which are the same on every machine."""
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(2, chans, *size, generator=generator)


def images_for(mixed: Tensor, matrix: Tensor) -> Tensor | None:
    """Images x, (2, N, *size), for which M·x equals `mixed`, (2, B, *size), except for rounding.

    Of all such x it is the one nearest to seeded noise, so that all N channels differ. None where
    the (B, N) matrix M can't make every image, or could only by amplifying rounding errors.
    """
    singular = torch.linalg.svdvals(matrix)
    if len(singular) < matrix.shape[0] or singular[-1] < _LEAST_SINGULAR * singular[0]:
        return None
    noise = seeded_images(matrix.shape[1], tuple(mixed.shape[2:])).double()
    lacking = mixed.double() - mix_images(noise, matrix)
    return (noise + mix_images(lacking, torch.linalg.pinv(matrix))).float()
