"""The images of a proof, and forward passes that collect the outputs of models and of stems."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zooadapt.adapt.contract import mix_images
from zooadapt.errors import ValidationError
from zooadapt.proof import cores
from zooadapt.types import Stem

Outputs = list[Tensor]
"""Float tensors, each with the batch as its first axis, (1, …)."""

_SEED = 20240117
_LEAST_SINGULAR = 1e-2
"""A matrix can make any image if its least singular value is more than this part of its largest."""


def noise(chans: int, size: tuple[int, ...], number: int = 0) -> Tensor:
    """An image of noise, (1, chans, *size) in float64: the same on every machine, by `number`."""
    generator = torch.Generator().manual_seed(_SEED + number)
    return torch.randn(1, chans, *size, generator=generator).double()


def coloured(chans: int, size: tuple[int, ...]) -> Tensor:
    """The image y₀, (1, chans, *size): noise that differs from channel to channel."""
    return noise(chans, size, 0)


def grey(chans: int, size: tuple[int, ...]) -> Tensor:
    """The image y₁, (1, chans, *size): noise that is the same in all channels."""
    return noise(1, size, 1).expand(1, chans, *size)


Kind = Literal["coloured", "grey", "own"]


@dataclass(frozen=True)
class Image:
    """The image that one variant is run on, and what it is mixed into; both in float64."""

    x: Tensor
    """(1, N, *size). It is generic in all N channels, also in those that M doesn't read."""
    mixed: Tensor
    """M·x, (1, B, *size), on which the base is run."""
    kind: Kind
    """Whether `mixed` is y₀ or y₁, which other variants share, or an image of the variant's own."""


def image_for(matrix: Tensor, size: tuple[int, ...]) -> Image:
    """The image for a variant with the (B, N) matrix M: seeded noise plus the least correction.

    M·x is y₀ if M can make any image without amplifying rounding errors. It is y₁ if all rows of M
    are equal: then M·x is grey for every x. Otherwise there is no correction.
    """
    x = noise(matrix.shape[1], size, 2)
    kind: Kind
    mixed = mix_images(x, matrix)
    if _makes_any_image(matrix):
        kind, wanted = "coloured", coloured(len(matrix), size)
    elif matrix.any() and torch.equal(matrix, matrix[:1].expand_as(matrix)):
        kind, wanted = "grey", grey(len(matrix), size)
    else:
        return Image(x, mixed, "own")
    return Image(x + mix_images(wanted - mixed, torch.linalg.pinv(matrix)), wanted, kind)


def _makes_any_image(matrix: Tensor) -> bool:
    singular = torch.linalg.svdvals(matrix)
    return len(singular) == len(matrix) and bool(singular[-1] > _LEAST_SINGULAR * singular[0])


@dataclass(frozen=True)
class Pass:
    """The outputs of one forward pass."""

    final: Outputs
    """The model's outputs; [] where the pass ended after the last stem."""
    stems: Outputs
    """The outputs of the stem modules, in the order of the stems."""


def run(model: nn.Module, image: Tensor, stems: Sequence[Stem]) -> Pass:
    """Run a whole forward pass. Raises ValidationError where it doesn't call a stem."""
    with _collecting(model, stems) as outputs, cores.borrowed():
        final = list(tensors(model(image)))
    return Pass(final, _stem_outputs(outputs, stems))


class _StemsDone(Exception):
    """Ends a forward pass once every stem has given its output."""


def run_to_stems(model: nn.Module, image: Tensor, stems: Sequence[Stem]) -> Pass:
    """Run a forward pass up to the last stem; the rest of the model can be on the meta device.

    Raises ValidationError where the pass doesn't call a stem.
    """
    with _collecting(model, stems, stop=True) as outputs, suppress(_StemsDone):
        model(image)
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
            outputs.setdefault(name, output.clone())  # what follows may work on it in place
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
    elif is_dataclass(output):
        yield from tensors(vars(output))
