"""Load a model from the local folder of a variant."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from zooadapt.errors import UsageError
from zooadapt.names import WEIGHTS
from zooadapt.zoos import registry, stored_names

_OURS = ("pretrained", "checkpoint_path", "pretrained_cfg", "weights", "weights_backbone")
"""Options that name other weights than the mirror's; refused."""


def load(folder: Path, row: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    """The model in eval mode with the stored weights of `folder`.

    `row` is the manifest's row of the variant, or of the variant that it was made from. Without
    options the weights are memory-mapped and the model isn't initialised first. Options go to the
    zoo's own loader. Raises UsageError if the zoo's library is too old or an option names weights.
    """
    zoo = registry.get(row["zoo"])
    zoo.check_version(row["min_timm"])
    given = sorted(options.keys() & set(_OURS))
    if given:
        raise UsageError(f"leave out {', '.join(given)}: the mirror's own weights are loaded")
    if options:
        return zoo.open(folder, options)
    return stored_names.plain(zoo.load(folder, safetensors.torch.load_file(folder / WEIGHTS)))
