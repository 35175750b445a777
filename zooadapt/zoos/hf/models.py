"""Build models of transformers' own classes, with the names that their tensors have in files."""

from collections.abc import Mapping
from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from zooadapt.errors import Unsupported, one_line
from zooadapt.zoos.hf import configs
from zooadapt.zoos.stored_names import Renamed


def kind(config: Mapping[str, Any]) -> Any:
    """The class that a config names. Raises Unsupported unless transformers has it, for images."""
    name = configs.architecture(config)
    if not name:
        raise Unsupported("its config names no class under architectures")
    found: Any = getattr(transformers, name, None) if name.isidentifier() else None
    ours = isinstance(found, type) and issubclass(found, PreTrainedModel)
    if not ours or not found.__module__.startswith("transformers.models."):
        raise Unsupported(
            f"{name} is no model of transformers {transformers.__version__}, and no code from a "
            f"repository is run"
        )
    if found.main_input_name != "pixel_values":
        raise Unsupported(f"{name} takes {found.main_input_name}, which aren't images")
    return found


def built(config: Mapping[str, Any]) -> Renamed:
    """The untrained model that a config describes, on torch's current default device.

    Raises Unsupported where transformers can't build it, or changes its tensors to store them.
    """
    made, read = kind(config), configs.read(config)
    if not isinstance(read, made.config_class):
        raise Unsupported(
            f"{made.__name__} isn't of the model_type {read.model_type} that its config states"
        )
    try:
        model = made(read)
    except ImportError as cause:
        raise Unsupported(one_line(cause)) from cause
    return Renamed(model, _stored_names(model))


def _stored_names(model: PreTrainedModel) -> dict[str, str]:
    """The names under which transformers stores a model's tensors, by their names in memory."""
    state = model.state_dict()
    names = {id(tensor): name for name, tensor in state.items()}
    stored = revert_weight_conversion(model, dict(state))
    renamed = {names.get(id(tensor), ""): name for name, tensor in stored.items()}
    if renamed.keys() != state.keys():
        raise Unsupported("transformers merges or splits some of its tensors when it stores them")
    return renamed
