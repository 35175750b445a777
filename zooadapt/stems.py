"""Which tensors read the image, and along which axis: found by building the model twice."""

from collections.abc import Iterable, Mapping
from math import prod

from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn

from zooadapt.errors import StemError, Unsupported
from zooadapt.records import Stem
from zooadapt.schemes import contract

_STANDARDISED = (ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame)
"""Convolutions that standardise their weight in every forward pass."""


def find(
    base: nn.Module, probe: nn.Module, chans: int, declared: Iterable[str]
) -> tuple[Stem, ...]:
    """The stems of `base`, which has `chans` input channels; `probe` is its like with one more.

    Both may be on the meta device. Every tensor whose shape differs between the two reads the
    image; their names must be those of the modules that the zoo itself has `declared`.

    Raises Unsupported where the stem is of a kind that isn't adapted, StemError where what was
    found contradicts what was declared.
    """
    shapes, probed = _shapes(base), _shapes(probe)
    if shapes.keys() != probed.keys():
        names = sorted(shapes.keys() ^ probed.keys())
        raise StemError(f"tensors {_listed(names)} come and go with the number of channels")
    changed = [name for name in shapes if shapes[name] != probed[name]]
    if not changed:
        raise Unsupported(
            "no tensor changes with the number of channels: the model reads the image through a "
            "fixed transform, such as a colour conversion"
        )
    expected = {f"{module}.weight" for module in declared}
    if set(changed) != expected:
        raise StemError(
            f"the tensors that change with the number of channels are {_listed(changed)}, but the "
            f"model declares {_listed(sorted(expected))}"
        )
    return tuple(_stem(base, name, chans) for name in changed)


def _stem(base: nn.Module, name: str, chans: int) -> Stem:
    module = base.get_submodule(name.rpartition(".")[0])
    if isinstance(module, nn.Conv2d) and module.groups == 1 and module.in_channels == chans:
        out, _, *kernel = module.weight.shape
        linear = not isinstance(module, _STANDARDISED)
        return Stem(name, axis=1, outer=out, inner=prod(kernel), linear=linear)
    raise Unsupported(f"{name} belongs to a {_kind(module)}, a kind of stem not adapted yet")


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        return f"{type(module).__name__} with {module.in_channels} inputs, {module.groups} group(s)"
    return type(module).__name__


def adapt(tensor: Tensor, stem: Stem, matrix: Tensor) -> Tensor:
    """The stem for N channels: `tensor` contracted with the (B, N) `matrix`, contiguous.

    Its shape is that of `tensor` with the axis that holds the channels N/B as long.
    """
    source, target = matrix.shape
    adapted = contract(tensor.reshape(stem.outer, source, stem.inner), matrix)
    shape = list(tensor.shape)
    shape[stem.axis] = shape[stem.axis] // source * target
    return adapted.reshape(shape).contiguous()


def roll(tensor: Tensor, stem: Stem, chans: int) -> Tensor:
    """The stem with its `chans` image channels rolled by one, or its sign flipped.

    The sign is flipped where rolling changes nothing: with one channel, or all the same.
    """
    view = tensor.reshape(stem.outer, chans, stem.inner)
    rolled = view.roll(1, dims=1)
    wrong = -view if rolled.equal(view) else rolled
    return wrong.reshape(tensor.shape)


def _shapes(model: nn.Module) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return (
        ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "none"
    )
