"""One forward pass, and what the model and its stems gave."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zooadapt.errors import ValidationError
from zooadapt.types import Stem

Outputs = list[Tensor]
"""Float tensors, batch first: (2, …) each."""


@dataclass(frozen=True)
class Pass:
    """What one forward pass gave."""

    final: Outputs
    stems: Outputs
    """The outputs of the stem modules, in the order of the stems."""


def run(model: nn.Module, images: Tensor, stems: Sequence[Stem]) -> Pass:
    """A whole forward pass; image by image where they don't fit into the device's memory together.

    Raises ValidationError where a stem isn't called.
    """
    try:
        return _run(model, images, stems)
    except torch.cuda.OutOfMemoryError:
        if len(images) == 1:
            raise
    single = [_run(model, image[None], stems) for image in images]
    return Pass(_joined([one.final for one in single]), _joined([one.stems for one in single]))


def _run(model: nn.Module, images: Tensor, stems: Sequence[Stem]) -> Pass:
    with _listening(model, stems) as heard:
        final = list(tensors(model(images)))
    return Pass(final, _spoken(heard, stems))


def _joined(outputs: Sequence[Outputs]) -> Outputs:
    """What several images gave, as one batch of them would have."""
    return [torch.cat(parts) for parts in zip(*outputs, strict=True)]


class _AllSpoke(Exception):
    """Ends a forward pass when its last stem has spoken."""


def run_to_stems(model: nn.Module, images: Tensor, stems: Sequence[Stem]) -> Pass:
    """A pass that ends with the last stem; what lies behind may be on the meta device."""
    with _listening(model, stems, stop=True) as heard, suppress(_AllSpoke):
        model(images)
    return Pass([], _spoken(heard, stems))


@contextmanager
def _listening(
    model: nn.Module, stems: Sequence[Stem], stop: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Within the block, collect the outputs of the stem modules under their names."""
    modules = {stem.module for stem in stems}
    heard: dict[str, Tensor] = {}

    def listener(name: str) -> Callable[..., None]:
        def listen(module: nn.Module, arguments: Any, output: Tensor) -> None:
            heard[name] = output
            if stop and heard.keys() == modules:
                raise _AllSpoke

        return listen

    hooks = [
        model.get_submodule(name).register_forward_hook(listener(name)) for name in sorted(modules)
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _spoken(heard: Mapping[str, Tensor], stems: Sequence[Stem]) -> Outputs:
    silent = [stem.module for stem in stems if stem.module not in heard]
    if silent:
        raise ValidationError(f"the forward pass never calls {silent[0]}, which reads the image")
    return [heard[stem.module] for stem in stems]


def tensors(output: Any) -> Iterator[Tensor]:
    """The float tensors of a model's output, however nested."""
    if isinstance(output, Tensor):
        yield output if output.dtype == torch.float64 else output.float()
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors(value)
