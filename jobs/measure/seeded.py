"""Seeded random weights that let the image through to the output, to measure without real weights.

With fresh initialisations a model's output hardly depends on the image, and even a zero stem passes
for a right one. So here weights are N(0, 1/fan_in), gains are near 1, biases are 0.1, and BatchNorm
statistics come from one pass in train mode.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def model(build: Callable[[], nn.Module], size: tuple[int, ...], seed: int = 0) -> nn.Module:
    """The model that `build` builds, with seeded values everywhere, in eval mode.

    `size` is the shape of an image, (channels, height, width), or of a video.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = build()
        let_through(built)
        set_batch_norms(built, torch.randn(4, *size))
    return built


def give_values(model: nn.Module, names: Iterable[str], seed: int = 0) -> None:
    """Replace the named tensors, on the meta device or not, with seeded float32 values."""
    state = model.state_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        values = {name: weights(name, state[name].shape) for name in names}
    model.load_state_dict(values, strict=False, assign=True)


@torch.no_grad()
def let_through(model: nn.Module) -> None:
    """Set random parameters of such a scale that differences of the input reach the output."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights(name, parameter.shape))


def weights(name: str, shape: torch.Size) -> Tensor:
    """Values for a float32 parameter of that name and shape, from torch's current seed."""
    if len(shape) >= 2:
        return torch.randn(shape).mul_(max(1, shape[1:].numel()) ** -0.5)
    if name.endswith("bias"):
        return torch.full(shape, 0.1)
    return 1 + 0.05 * torch.randn(shape)


@torch.no_grad()
def set_batch_norms(model: nn.Module, images: Tensor) -> None:
    """Set the BatchNorm statistics, if any, by one pass of `images`. Leaves eval mode on."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the plain average
    if norms:
        model.train()
        model(images)
    model.eval()


@contextmanager
def materialised_on_demand(*models: nn.Module) -> Iterator[None]:
    """Within the block, a module on the meta device gets values when it is first called.

    So a forward pass that stops early costs only the modules that it went through. Modules with
    tensors of the same names and shapes get the same values.
    """
    hooks = [
        module.register_forward_pre_hook(_materialise)
        for model in models
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _materialise(module: nn.Module, arguments: Any) -> None:
    """Give the module's own tensors values, if they have none: the same for the same shapes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                values = weights(name, parameter.shape)
                setattr(module, name, nn.Parameter(values, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                setattr(module, name, torch.ones_like(buffer, device="cpu"))
