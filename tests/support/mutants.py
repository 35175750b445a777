"""Adaptations that are wrong on purpose."""

from torch import Tensor

from zooadapt.adapt import contract


def rolled(weight: Tensor, matrix: Tensor) -> Tensor:
    """W·M with its channels rolled by one."""
    return contract.contract(weight, matrix).roll(1, dims=1)
