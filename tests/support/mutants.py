"""Adaptations that are wrong on purpose."""

from torch import Tensor

from zooadapt.adapt import schemes


def rolled(weight: Tensor, matrix: Tensor) -> Tensor:
    """W·M with its channels rolled by one."""
    return schemes.contract(weight, matrix).roll(1, dims=1)
