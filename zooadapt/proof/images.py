"""Seeded images to run a model on; no data set is needed."""

import torch
from torch import Tensor

from zooadapt.adapt.contract import mix_images

_SEED = 20240117
_LEAST_SINGULAR = 1e-2
"""Of a matrix that can make any image, in units of its largest singular value."""


def seeded_images(chans: int, size: tuple[int, ...]) -> Tensor:
    """Two different images (2, chans, *size), the same on every machine."""
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(2, chans, *size, generator=generator)


def images_for(mixed: Tensor, matrix: Tensor) -> Tensor | None:
    """Seeded images x (2, N, *size) for which M·x is `mixed` (2, B, *size), but for rounding.

    Of all such x the one nearest to seeded noise, so that they differ in all N channels. None where
    M, of shape (B, N), can't make every image, or not without making much of rounding.
    """
    singular = torch.linalg.svdvals(matrix)
    if len(singular) < matrix.shape[0] or singular[-1] < _LEAST_SINGULAR * singular[0]:
        return None
    noise = seeded_images(matrix.shape[1], tuple(mixed.shape[2:])).double()
    lacking = mixed.double() - mix_images(noise, matrix)
    return (noise + mix_images(lacking, torch.linalg.pinv(matrix))).float()
