"""Load a model from the local folder of a variant."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from zooadapt.errors import UsageError
from zooadapt.names import CONFIG, SECTION, WEIGHTS
from zooadapt.zoos import registry, stored_names

_OURS = ("pretrained_cfg", "weights", "weights_backbone")
"""Options that name other weights than the variant's; refused."""
_NAMING_WEIGHTS = {"file", "url", "hf_hub_id", "hf_hub_filename", "state_dict", "source"}
"""Keys of timm's `pretrained_cfg_overlay` that do the same."""

_log = logging.getLogger("zooadapt")


def load(folder: Path, row: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    """The model in train mode, as timm's, with the stored weights of `folder`.

    `row` is the variant's row. Without options the weights are memory-mapped and the model isn't
    initialised first. Options go to the zoo's own loader. Raises UsageError if the zoo's library is
    too old or an option names weights.
    """
    zoo = registry.get(row["zoo"])
    zoo.check_version(row["min_timm"])
    options = _checked(options)
    if options:
        model = zoo.open(folder, options)
    else:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
        model = stored_names.plain(zoo.load(folder, tensors))
    config = json.loads((folder / CONFIG).read_text())
    model.zooadapt = config[SECTION]  # for `inspect`
    return model.train()


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options for the library. Raises UsageError for one that names other weights."""
    if options.get("pretrained") is False:
        raise UsageError("for a model without pretrained weights call zooadapt.create_model")
    overlay = options.get("pretrained_cfg_overlay") or {}
    given = sorted(options.keys() & set(_OURS))
    given += [f"pretrained_cfg_overlay[{key!r}]" for key in overlay if key in _NAMING_WEIGHTS]
    if given:
        raise UsageError(f"leave out {', '.join(given)}: the variant's own weights are loaded")
    if path := options.get("checkpoint_path"):
        _log.warning("the weights of %s are loaded last, as by timm; they aren't proved", path)
    return {name: value for name, value in options.items() if name != "pretrained"}
