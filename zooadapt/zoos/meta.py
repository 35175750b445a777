"""Build models on the meta device, where tensors have shapes but no values; and limits on sizes.

A model's description can come from anybody, so sizes beyond those of any real model are refused.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from zooadapt.errors import CheckpointError

_FILLING = frozenset(
    [getattr(Tensor, name) for name in ("add_", "clamp_", "erfinv_", "mul_", "normal_", "uniform_")]
    + [getattr(init, name) for name in ("kaiming_uniform_", "normal_", "uniform_")]
)
"""Functions that initialise a tensor in place. On the meta device they do nothing, but they take
time: building a transformer there would spend most of its time in `clamp_`."""


class _Unfilled(TorchFunctionMode):
    """Skips the functions that initialise tensors, for tensors on the meta device."""

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
    """Within the block, models are built on the meta device, without being initialised."""
    with torch.device("meta"), _Unfilled():
        yield


@contextmanager
def nothing_kept() -> Iterator[None]:
    """Within the block, transformers' models don't cache what they compute from sizes.

    BEiT's indices are an example. Models of one class share that cache, and a forward pass on the
    meta device would leave tensors without values in it.
    """
    loaded = sys.modules.get("transformers.pytorch_utils")
    if loaded is None:  # then no model is transformers'
        yield
        return
    with mock.patch.object(loaded, "is_torchdynamo_compiling", return_value=True):
        yield


MOST = 65_536
"""The largest number accepted for a model's depth, width or channels; every real one is smaller."""
_MOST_VALUES = 2**27
"""The most values that an image may have: channels x height x width."""


def check_image(shape: Sequence[int]) -> None:
    """Raise CheckpointError if no real model takes images of this (channels, height, width)."""
    if not all(isinstance(n, int) and n > 0 for n in shape) or math.prod(shape) > _MOST_VALUES:
        raise CheckpointError(
            f"no model takes images of (channels, height, width) = {tuple(shape)}"
        )
