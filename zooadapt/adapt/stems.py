"""Find the tensors that read the image, and their channel axis, from two builds of a model."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from zooadapt.errors import StemError, Unsupported, some
from zooadapt.types import Layer, Stem

LayerOf = Callable[[nn.Module, str, int], Layer | None]
"""The type of `Zoo.layer`: how a module reads the image; None for torch's own modules."""


def find(
    base: nn.Module, probe: nn.Module, chans: int, declared: Iterable[str], layer_of: LayerOf
) -> tuple[Stem, ...]:
    """The stems of `base`, which has `chans` input channels. `probe` is the model with one more.

    Both models can be on the meta device. Every tensor whose shape differs between them reads the
    image. Where the zoo has `declared` modules, these tensors must be their weights.

    Raises Unsupported if the stem is of a kind that can't be adapted, and StemError if the tensors
    found aren't the declared ones.
    """
    shapes, probed = _shapes(base), _shapes(probe)
    if shapes.keys() != probed.keys():
        names = sorted(shapes.keys() ^ probed.keys())
        raise StemError(f"the number of channels decides whether the model has {some(names)}")
    changed = [name for name in shapes if shapes[name] != probed[name]]
    if not changed:
        raise Unsupported(
            "no tensor changes with the number of channels: the model reads the image through a "
            "fixed transform, such as a colour conversion"
        )
    expected = {f"{module}.weight" for module in declared}
    if expected and set(changed) != expected:
        raise StemError(
            f"the tensors that change with the number of channels are {some(changed)}, but the "
            f"model declares {some(sorted(expected))}"
        )
    return tuple(_stem(base, name, chans, layer_of) for name in changed)


def _stem(base: nn.Module, name: str, chans: int, layer_of: LayerOf) -> Stem:
    path = name.rpartition(".")[0]
    module: Any = base.get_submodule(path)
    layer = layer_of(base, path, chans) or _plain(module)
    groups = getattr(module, "groups", 1)
    if layer is None or groups != 1 or module.weight.shape[1] != chans * layer.pixels:
        raise Unsupported(f"{name} belongs to a {_kind(module)}, a stem that can't be adapted")
    filters, kernel = module.weight.shape[0], module.weight.shape[2:].numel()
    outer, inner = (layer.pixels, 1) if layer.channels_last else (1, layer.pixels)
    return Stem(name, 1, filters * outer, kernel * inner, layer.use, layer.gain)


def _plain(module: nn.Module) -> Layer | None:
    """The layer of torch's own convolutions: one pixel of each channel at each kernel position."""
    return Layer() if isinstance(module, nn.Conv2d | nn.Conv3d) else None


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        return f"{type(module).__name__} with {module.in_channels} inputs, {module.groups} group(s)"
    return type(module).__name__


def _shapes(model: nn.Module) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
