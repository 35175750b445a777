"""Which parameters read the image, found by running the model: for zoos that don't declare them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_WEIGHTED = {"conv1d", "conv2d", "conv3d", "linear"}
"""Functions whose second argument, the weight, has the channels of the first."""


@dataclass(frozen=True)
class FirstUse:
    """An operation in which the image first meets something learnt."""

    function: str
    """Such as ``conv2d``."""
    parameters: tuple[str, ...]
    """What it meets, the weight first."""

    @property
    def weight(self) -> str | None:
        """The parameter that has the image's channels; None for a kind that isn't known."""
        return self.parameters[0] if self.function in _WEIGHTED else None


def first_uses(model: nn.Module, image: Tensor) -> list[FirstUse]:
    """Every operation of a forward pass that applies parameters to the image itself.

    The image stays the image while it is cut, padded, scaled, put together or moved; what comes of
    an operation with a parameter isn't the image any more. Model and image may be on the meta
    device. Raises whatever the model does.
    """
    tracer = _Tracer(model.named_parameters(), image)
    with torch.no_grad(), tracer:
        model(image)
    return list(dict.fromkeys(tracer.found))


class _Tracer(TorchFunctionMode):
    """Follows the image, and what is made of parameters alone, through torch's functions."""

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], image: Tensor) -> None:
        super().__init__()
        self.found: list[FirstUse] = []
        self._kept: list[Tensor] = [image]
        """Whatever is known by its id below: none may be given to another meanwhile."""
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
    """The tensors in arguments or a result, however nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
