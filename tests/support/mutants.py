"""Adaptations that are wrong on purpose."""

from torch import Tensor

from zooadapt.adapt.contract import contract


def rolled(weight: Tensor, matrix: Tensor) -> Tensor:
    """W·M with its channels rolled by one."""
    return contract(weight, matrix).roll(1, dims=1)
