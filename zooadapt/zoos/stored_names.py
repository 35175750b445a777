"""A model whose tensors have other names in files than in the memory of its library."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


class Renamed(nn.Module):
    """Wraps a model so that its tensors have the names under which they are stored in files.

    For libraries that rename tensors when they load a file. The wrapper holds the same tensors as
    the library's own model, and runs it; `plain` gives the library's own model back.
    """

    def __init__(self, model: nn.Module, names: Mapping[str, str]) -> None:
        """`names` gives the stored name for each name in the model's own state dict."""
        super().__init__()
        self.model = model
        self.names = dict(names)
        self._own = {stored: name for name, stored in names.items()}
        self._holders = {_holder(stored): _holder(name) for name, stored in names.items()}

    def forward(self, *images: Any) -> Any:
        """The output of the wrapped model."""
        return self.model(*images)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's state dict, under the stored names."""
        state = self.model.state_dict(*args, **kwargs)
        return {self.names[name]: tensor for name, tensor in state.items()}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state dict with stored names into the model."""
        renamed = {self._own.get(name, name): tensor for name, tensor in state_dict.items()}
        return self.model.load_state_dict(renamed, strict=strict, assign=assign)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The model's parameters, under the stored names; the wrapper has none of its own."""
        if recurse:
            for name, parameter in self.model.named_parameters("", True, remove_duplicate):
                yield f"{prefix}.{self.names[name]}".lstrip("."), parameter

    def get_submodule(self, target: str) -> nn.Module:
        """The model's module whose tensors are stored below `target`; the wrapper if none is."""
        if target in self._holders:
            return self.model.get_submodule(self._holders[target])
        return self


def _holder(name: str) -> str:
    return name.rpartition(".")[0]


def plain(model: nn.Module) -> nn.Module:
    """The library's own model, without the wrapper if there is one."""
    return model.model if isinstance(model, Renamed) else model
