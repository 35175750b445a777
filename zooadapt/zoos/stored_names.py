"""A model whose tensors go by other names than its library has for them in memory."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


class Renamed(nn.Module):
    """Stands for `model` wherever tensors are named: by the names under which they are stored.

    For libraries that change names between file and memory. It runs the model itself and holds its
    very tensors; whoever wants the library's own model takes `model`.
    """

    def __init__(self, model: nn.Module, names: Mapping[str, str]) -> None:
        """`names` are the stored ones by the model's own, for all of its state dict."""
        super().__init__()
        self.model = model
        self.names = dict(names)
        self._own = {stored: name for name, stored in names.items()}
        self._holders = {_holder(stored): _holder(name) for name, stored in names.items()}

    def forward(self, *images: Any) -> Any:
        """The model's."""
        return self.model(*images)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Of the model, under the stored names."""
        state = self.model.state_dict(*args, **kwargs)
        return {self.names[name]: tensor for name, tensor in state.items()}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Into the model, by the stored names."""
        renamed = {self._own.get(name, name): tensor for name, tensor in state_dict.items()}
        return self.model.load_state_dict(renamed, strict=strict, assign=assign)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Of the model, under the stored names; none is this module's own."""
        if recurse:
            for name, parameter in self.model.named_parameters("", True, remove_duplicate):
                yield f"{prefix}.{self.names[name]}".lstrip("."), parameter

    def get_submodule(self, target: str) -> nn.Module:
        """The module that holds the tensors stored below `target`, or this where none does."""
        if target in self._holders:
            return self.model.get_submodule(self._holders[target])
        return self


def _holder(name: str) -> str:
    return name.rpartition(".")[0]


def plain(model: nn.Module) -> nn.Module:
    """The library's own model."""
    return model.model if isinstance(model, Renamed) else model
