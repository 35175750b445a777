"""Rename a checkpoint's tensors to the names under which transformers stores them today."""

import re
from collections.abc import Mapping
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from zooadapt.errors import CheckpointError
from zooadapt.zoos.stored_names import Renamed


def converted(model: Renamed, content: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors that transformers' own loader would use, under the stored names of `model`.

    Buffers that the model computes by itself are dropped, and so are the names that its class
    ignores. All others stay, even if the model doesn't know them. Raises CheckpointError where two
    tensors would get the same name, or several would be merged into one.
    """
    inner: Any = model.model
    rules = get_model_conversion_mapping(inner)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    state = inner.state_dict()
    found: dict[str, Any] = {}
    for key, value in content.items():
        prefix = inner.base_model_prefix
        name, pattern = rename_source_key(str(key), renamings, converters, prefix, state)
        if pattern is not None:
            raise CheckpointError(f"{key} is one of several tensors that transformers merges")
        if name not in state and _ignored(inner, name):
            continue
        stored = model.names.get(name, str(key))
        if stored in found:
            raise CheckpointError(f"the checkpoint has {stored} twice, once as {key}")
        found[stored] = value
    return found


def _ignored(model: Any, name: str) -> bool:
    """Whether transformers' loader drops a tensor of this name, which isn't in the state dict."""
    computed = {buffer for buffer, _ in model.named_buffers()}
    patterns = model._keys_to_ignore_on_load_unexpected or ()
    prefix = f"{model.base_model_prefix}."
    own = {name, name.removeprefix(prefix), f"{prefix}{name}"}
    return bool(own & computed) or any(re.search(pattern, name) for pattern in patterns)
