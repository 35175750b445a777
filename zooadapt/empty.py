"""Models that have shapes and no values, built without computing first values for them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FILLING = frozenset(
    getattr(Tensor, name) for name in ("add_", "clamp_", "erfinv_", "mul_", "normal_", "uniform_")
)
"""What initial values are made with: in place, so on the meta device nothing comes of it. Most of
the time in which a transformer is built there would go by in its `clamp_`."""


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills tensors that hold nothing."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _FILLING and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def shapes_only() -> Iterator[None]:
    """Build on the meta device in this block."""
    with torch.device("meta"), _Unfilled():
        yield
