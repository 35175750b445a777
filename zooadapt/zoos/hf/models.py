"""The classes of transformers itself, and their models under the names of their tensors on file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import transformers
from transformers import PreTrainedModel, pytorch_utils
from transformers.core_model_loading import revert_weight_conversion

from zooadapt.errors import Unsupported, one_line
from zooadapt.zoos.hf import configs
from zooadapt.zoos.stored_names import Renamed


def kind(config: Mapping[str, Any]) -> Any:
    """The class that a config names. Raises Unsupported where it isn't one of transformers'."""
    name = configs.architecture(config)
    if not name:
        raise Unsupported("its config names no class under architectures")
    found: Any = getattr(transformers, name, None) if name.isidentifier() else None
    ours = isinstance(found, type) and issubclass(found, PreTrainedModel)
    if not ours or not found.__module__.startswith("transformers.models."):
        raise Unsupported(
            f"{name} is no model of transformers {transformers.__version__}, and no code of a "
            f"repository is run"
        )
    if found.main_input_name != "pixel_values":
        raise Unsupported(f"{name} takes {found.main_input_name}, which aren't images")
    return found


def built(config: Mapping[str, Any]) -> Renamed:
    """The model of a config with the right number of channels, on the current default device."""
    made, read = kind(config), configs.read(config)
    if not isinstance(read, made.config_class):
        raise Unsupported(f"{made.__name__} isn't of the model_type {read.model_type} it states")
    try:
        model = made(read)
    except ImportError as cause:
        raise Unsupported(one_line(cause)) from cause
    return Renamed(model, _stored_names(model))


@contextmanager
def nothing_kept() -> Iterator[None]:
    """Within the block no model keeps what it computes from sizes alone, for others of its class.

    A pass on the meta device would leave them tensors without values, as BEiT's indices.
    """
    with mock.patch.object(pytorch_utils, "is_torchdynamo_compiling", return_value=True):
        yield


def _stored_names(model: PreTrainedModel) -> dict[str, str]:
    """The names under which transformers would store a model's tensors, by those in memory."""
    state = model.state_dict()
    names = {id(tensor): name for name, tensor in state.items()}
    stored = revert_weight_conversion(model, dict(state))
    renamed = {names.get(id(tensor), ""): name for name, tensor in stored.items()}
    if renamed.keys() != state.keys():
        raise Unsupported("transformers stores some of its tensors put together or cut")
    return renamed
