"""Seeded images, and forward passes that collect the outputs of a model and of its stem modules."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zooadapt.adapt.contract import mix_images
from zooadapt.errors import ValidationError
from zooadapt.types import Stem

Outputs = list[Tensor]
"""Float tensors with the batch as their first axis, (2, …)."""

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


@dataclass(frozen=True)
class Pass:
    """The outputs of one forward pass."""

    final: Outputs
    """The model's outputs; [] where the pass ended after the last stem."""
    stems: Outputs
    """The outputs of the stem modules, in the order of the stems."""


def run(model: nn.Module, images: Tensor, stems: Sequence[Stem]) -> Pass:
    """Run a whole forward pass; image by image if all don't fit into the device's memory together.

    Raises ValidationError where the pass doesn't call a stem.
    """
    try:
        return _run(model, images, stems)
    except torch.cuda.OutOfMemoryError:
        if len(images) == 1:
            raise
    single = [_run(model, image[None], stems) for image in images]
    return Pass(_joined([one.final for one in single]), _joined([one.stems for one in single]))


def _run(model: nn.Module, images: Tensor, stems: Sequence[Stem]) -> Pass:
    with _collecting(model, stems) as outputs:
        final = list(tensors(model(images)))
    return Pass(final, _stem_outputs(outputs, stems))


def _joined(outputs: Sequence[Outputs]) -> Outputs:
    """The outputs of several single images, put together as those of one batch."""
    return [torch.cat(parts) for parts in zip(*outputs, strict=True)]


class _StemsDone(Exception):
    """Ends a forward pass once every stem has given its output."""


def run_to_stems(model: nn.Module, images: Tensor, stems: Sequence[Stem]) -> Pass:
    """Run a forward pass up to the last stem; the rest of the model can be on the meta device."""
    with _collecting(model, stems, stop=True) as outputs, suppress(_StemsDone):
        model(images)
    return Pass([], _stem_outputs(outputs, stems))


@contextmanager
def _collecting(
    model: nn.Module, stems: Sequence[Stem], stop: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Within the block, collect the stem modules' outputs by name; `stop` after the last one."""
    modules = {stem.module for stem in stems}
    outputs: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[..., None]:
        def collect(module: nn.Module, arguments: Any, output: Tensor) -> None:
            outputs[name] = output
            if stop and outputs.keys() == modules:
                raise _StemsDone

        return collect

    hooks = [
        model.get_submodule(name).register_forward_hook(hook_for(name)) for name in sorted(modules)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _stem_outputs(outputs: Mapping[str, Tensor], stems: Sequence[Stem]) -> Outputs:
    uncalled = [stem.module for stem in stems if stem.module not in outputs]
    if uncalled:
        raise ValidationError(f"the forward pass never calls {uncalled[0]}, which reads the image")
    return [outputs[stem.module] for stem in stems]


def tensors(output: Any) -> Iterator[Tensor]:
    """All tensors in a model's output, at any depth of nesting, as float32; float64 stays."""
    if isinstance(output, Tensor):
        yield output if output.dtype == torch.float64 else output.float()
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors(value)
