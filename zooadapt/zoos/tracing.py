"""Find the parameters that read the image by running the model, for zoos that don't name them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_WEIGHTED = {"conv1d", "conv2d", "conv3d", "linear"}
"""Functions whose second argument is a weight with the channels of the first argument."""


@dataclass(frozen=True)
class FirstUse:
    """An operation that is the first to apply parameters to the image."""

    function: str
    """The operation's name, such as ``conv2d``."""
    parameters: tuple[str, ...]
    """The names of the parameters that it applies, the weight first."""

    @property
    def weight(self) -> str | None:
        """The parameter with the image's channels; None where the operation isn't a known one."""
        return self.parameters[0] if self.function in _WEIGHTED else None


def first_uses(model: nn.Module, image: Tensor) -> list[FirstUse]:
    """Every operation of a forward pass that applies parameters to the image itself.

    An image that was cut, padded, scaled, joined or moved still counts as the image; the result of
    an operation with a parameter doesn't. Model and image can be on the meta device. An error that
    the model raises is passed on.
    """
    tracer = _Tracer(model.named_parameters(), image)
    with torch.no_grad(), tracer:
        model(image)
    return list(dict.fromkeys(tracer.found))


class _Tracer(TorchFunctionMode):
    """Follows two kinds of tensors through torch's functions.

    They are those made from the image without a parameter, and those made from parameters alone.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], image: Tensor) -> None:
        super().__init__()
        self.found: list[FirstUse] = []
        self._kept: list[Tensor] = [image]
        """The tensors whose ids are in the two fields below. Keeping them alive keeps Python from
        giving their ids to other objects."""
        self._images = {id(image)}
        self._learnt = {id(tensor): name for name, tensor in parameters}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = [*_tensors(args), *_tensors(kwargs or {})]
        result = func(*args, **(kwargs or {}))
        if not given:
            return result
        name = getattr(func, "__name__", "")
        images = any(id(tensor) in self._images for tensor in given)
        learnt = [self._learnt[id(tensor)] for tensor in given if id(tensor) in self._learnt]
        if images and learnt:
            self.found.append(FirstUse(name, tuple(learnt)))
            return result
        made = [args[0]] if name == "__setitem__" else _tensors(result)
        for tensor in made:
            self._kept.append(tensor)
            if images:
                self._images.add(id(tensor))
            elif learnt:  # such as a standardised weight
                self._learnt.setdefault(id(tensor), learnt[0])
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in a function's arguments or result, at any depth of nesting."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
