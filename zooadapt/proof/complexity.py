"""Count what a forward pass computes, on the meta device: no weights are needed.

Multiply-accumulates (MACs) and activations are counted as timm's and fvcore's tables count them:
over convolutions, matrix products and attention. A MAC is two of torch's FLOPs. An activation is
one value of such an operation's output.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from zooadapt.proof import passes
from zooadapt.types import Complexity, Stem
from zooadapt.zoos.meta import nothing_kept, shapes_only


def count(
    base: nn.Module, probe: nn.Module, stems: Sequence[Stem], shape: Sequence[int]
) -> Complexity | None:
    """What one image of `shape`, (B, *size), costs in `base`; both models are on the meta device.

    `probe` is the model with one channel more: how much its stems cost more is what each channel
    costs. None where the model can't be run on the meta device.
    """
    chans, *size = shape
    with suppress(Exception), torch.inference_mode(), shapes_only(), nothing_kept():
        image, wider = torch.empty(1, chans, *size), torch.empty(1, chans + 1, *size)
        with FlopCounterMode(display=False) as flops, _counting_outputs() as outputs:
            base(image)
        with FlopCounterMode(display=False) as narrow:
            passes.run_to_stems(base, image, stems)
        with FlopCounterMode(display=False) as wide:
            passes.run_to_stems(probe, wider, stems)
        of_channel = wide.get_total_flops() - narrow.get_total_flops()
        return Complexity(
            macs=flops.get_total_flops() // 2,
            macs_of_channel=of_channel // 2,
            activations=outputs.get_total_flops(),
        )
    return None


def _counting_outputs() -> FlopCounterMode:
    """A counter of the values that come out of the operations that have FLOPs."""
    return FlopCounterMode(display=False, custom_mapping=dict.fromkeys(flop_registry, _values))


def _values(*inputs: Any, out_val: Tensor | Sequence[Tensor], **options: Any) -> int:
    output = out_val if isinstance(out_val, Tensor) else out_val[0]  # attention has others
    return math.prod(output.shape)


_values._get_raw = True  # type: ignore[attr-defined]  # torch then passes the output itself
