"""Models that have shapes and no values, built without computing first values for them.

What describes a model may be anybody's: it may not ask for more than any model there is.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from zooadapt.errors import CheckpointError

_FILLING = frozenset(
    [getattr(Tensor, name) for name in ("add_", "clamp_", "erfinv_", "mul_", "normal_", "uniform_")]
    + [getattr(init, name) for name in ("kaiming_uniform_", "normal_", "uniform_")]
)
"""What first values are made with: in place, so on the meta device nothing comes of it. Most of the
time in which a transformer is built there would go by in its `clamp_`."""


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills tensors that hold nothing."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLING:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Build on the meta device in this block."""
    with torch.device("meta"), _Unfilled():
        yield


MOST = 65_536
"""For a number that a model is built by: there is no such depth or width, nor so many channels."""
_MOST_VALUES = 2**27
"""Of an image."""


def check_image(shape: Sequence[int]) -> None:
    """Raise CheckpointError for a shape, channels first, that no model takes images of."""
    if not all(isinstance(n, int) and n > 0 for n in shape) or math.prod(shape) > _MOST_VALUES:
        raise CheckpointError(f"its images are of {tuple(shape)}: channels, height, width")
