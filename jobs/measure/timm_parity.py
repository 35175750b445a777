"""Compare the adapted stems with those of timm's own loader, for zoos that timm can load."""

from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import timm
import timm.models._builder as timm_builder
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from zooadapt.zoos.meta import shapes_only

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""The stored dtypes in which timm's stems are compared with zooadapt's."""

Tensors = Mapping[str, Tensor]


def verdict(
    model: nn.Module,
    count: int,
    originals: Callable[[torch.dtype], Tensors],
    adapted: Callable[[torch.dtype], Tensors],
) -> str:
    """What timm's loader, given `model` for `count` channels, makes of the original stems.

    Returns `equal` (to `adapted`, bit for bit, in all of DTYPES), `random` (timm leaves a stem
    random) or `differs`.
    """
    verdicts = {
        _compared(stems_by_timm(model, originals(dtype), count), adapted(dtype)) for dtype in DTYPES
    }
    return verdicts.pop() if len(verdicts) == 1 else "differs"


def _compared(timms: Tensors, ours: Tensors) -> str:
    if not ours.keys() <= timms.keys():
        return "random"
    return "equal" if all(torch.equal(timms[name], ours[name]) for name in ours) else "differs"


def stems_by_timm(model: nn.Module, originals: Tensors, count: int) -> dict[str, Tensor]:
    """What timm's own loader makes of a checkpoint's stem tensors for `count` channels.

    `model` is built for `count` channels. Its `load_state_dict` is replaced to see which tensors
    the loader passes. Other tensors are left out. A tensor that timm would leave random is absent.
    """
    handed: dict[str, Tensor] = {}

    def listen(tensors: dict[str, Tensor], strict: bool) -> _IncompatibleKeys:
        handed.update(tensors)
        return _IncompatibleKeys([], [])

    cfg: Any = model.pretrained_cfg
    cfg = {**cfg, "state_dict": dict(originals), "classifier": None}
    with mock.patch.object(model, "load_state_dict", listen):
        timm_builder.load_pretrained(model, cfg, in_chans=count)
    return handed


def unadapted(name: str, count: int) -> str:
    """What timm makes of a model that zooadapt can't adapt.

    `fails` if timm's model raises at its first forward pass, else `random`, like its first layer.
    """
    _, height, width = timm.get_pretrained_cfg(name).input_size
    with shapes_only():
        model = timm.create_model(name, in_chans=count).eval()
    with torch.device("meta"):
        try:
            model(torch.zeros(2, count, height, width))
        except Exception:
            return "fails"
    return "random"
