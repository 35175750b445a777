"""What a variant's config.json states. Reading it needs neither torch nor the zoo's library."""

from collections.abc import Mapping
from typing import Any

from zooadapt.targets import Bands
from zooadapt.types import ModelFacts
from zooadapt.zoos import timm_releases


def timm(config: Mapping[str, Any]) -> ModelFacts:
    """The facts that timm's ``pretrained_cfg`` states; channels are only counted."""
    cfg = config["pretrained_cfg"]
    chans, height, width = cfg["input_size"]
    return ModelFacts(
        bands=Bands.counted(chans),
        height=height,
        width=width,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        num_classes=config["num_classes"],
        min_timm=timm_releases.min_timm(config["architecture"]),
    )


def fixed(config: Mapping[str, Any]) -> ModelFacts:
    """The facts that the config of a `FixedZoo` states; channels are only counted."""
    chans, *frames, height, width = config["input_size"]
    return ModelFacts(
        bands=Bands.counted(chans),
        height=height,
        width=width,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        num_classes=config["num_classes"],
        frames=frames[0] if frames else 0,
    )
