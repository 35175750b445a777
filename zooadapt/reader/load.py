"""A variant's folder → a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from zooadapt.errors import UsageError
from zooadapt.names import WEIGHTS
from zooadapt.zoos import registry, stored_names

_OURS = ("pretrained", "checkpoint_path", "pretrained_cfg", "weights", "weights_backbone")


def load(folder: Path, row: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    """The model in eval mode with the stored weights; `row` is of it, or of what it is made from.

    Without options the weights are mapped from the file, and nothing is initialised that they
    replace. Options go to the zoo's own loader. Raises UsageError where the installed zoo is too
    old for the model, or an option isn't the reader's to give.
    """
    zoo = registry.get(row["zoo"])
    zoo.check_version(row["min_timm"])
    given = sorted(options.keys() & set(_OURS))
    if given:
        raise UsageError(f"{', '.join(given)}: what is loaded is the mirror's own weights")
    if options:
        return zoo.open(folder, options)
    return stored_names.plain(zoo.load(folder, safetensors.torch.load_file(folder / WEIGHTS)))
