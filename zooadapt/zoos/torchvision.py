"""The zoo of torchvision's models: 166 weights of 121 architectures in torchvision 0.29."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MethodType
from typing import Any

from torch import nn

from zooadapt.bands import RGB
from zooadapt.errors import Unsupported, UsageError, one_line
from zooadapt.types import Listing, ModelEntry, ModelFacts
from zooadapt.zoos.fixed import FixedZoo

try:
    from torchvision.models import (
        MNASNet,
        WeightsEnum,
        get_model,
        get_model_builder,
        get_model_weights,
        list_models,
    )
except (ImportError, RuntimeError) as cause:  # RuntimeError if it was built for another torch
    raise UsageError(
        f"--zoo torchvision: torchvision can't be imported ({one_line(cause)}): "
        f"pip install 'zooadapt[torchvision]'"
    ) from cause

_FRAMES = 16
"""Frames of the videos that models are run on, where the weights don't need more."""

_ARGUMENTS: dict[str, dict[str, Any]] = {
    "vgg*": {"init_weights": False},
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "fcn_*": {"aux_loss": True, "weights_backbone": None},
    "deeplabv3_*": {"aux_loss": True, "weights_backbone": None},
    "lraspp_*": {"weights_backbone": None},
}
"""The arguments that torchvision's builders set when they are given weights, by a glob over
architectures; `TorchvisionZoo.arguments` adds those that depend on the weights.
`weights_backbone` keeps the backbone's own weights from being downloaded."""

_REFUSED = {
    "detection": (
        "it detects objects: its GeneralizedRCNNTransform normalises images with a mean and std of "
        "3 channels, and it returns as many boxes as it finds in an image"
    ),
    "optical_flow": "it computes optical flow: it takes two images at once instead of one",
    "quantization": (
        "it is quantised: its weights are 8-bit integers with scales, and W·M "
        "would have to be rounded to other integers"
    ),
}
"""The kinds of models, as `_kind` names them, that can't be adapted, and why."""

_OLD_NAME = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$"
)
"""The old name of a DenseNet's tensor in checkpoints: today's name lacks the dot in the middle."""

_DROPPED = {"googlenet": ("aux1.", "aux2.")}
"""The prefixes of auxiliary heads that torchvision loads and then removes, by architecture."""


class TorchvisionZoo(FixedZoo):
    """Every architecture of ``torchvision.models``, as one model for each of its weights."""

    name = library = "torchvision"

    def models(self, listing: Listing) -> Iterable[ModelEntry]:
        """All weights, in the alphabetical order of their architectures; nothing is downloaded."""
        return [
            self._entry(architecture, weights)
            for architecture in list_models()
            for weights in get_model_weights(architecture)
        ]

    def _entry(self, architecture: str, weights: WeightsEnum) -> ModelEntry:
        return ModelEntry(
            zoo=self.name,
            name=f"{architecture}.{weights.name}",
            architecture=architecture,
            pretrained_tag=weights.name,
            license=weights.meta.get("license"),
            url=weights.url,
        )

    def facts(self, entry: ModelEntry) -> ModelFacts:
        """The facts of the weights' preprocessing; mean 0 and std 1 where it doesn't normalise."""
        weights, preset = _weights(entry), _weights(entry).transforms()
        height, width = _size(weights, preset)
        video = _kind(entry.architecture) == "video"
        least = weights.meta.get("min_temporal_size", 0)
        return ModelFacts(
            bands=RGB,
            height=height,
            width=width,
            mean=tuple(getattr(preset, "mean", (0.0, 0.0, 0.0))),
            std=tuple(getattr(preset, "std", (1.0, 1.0, 1.0))),
            num_classes=len(weights.meta.get("categories") or ()),
            frames=max(_FRAMES, least) if video else 0,
        )

    def arguments(self, entry: ModelEntry) -> dict[str, Any]:
        """The arguments that torchvision's builder sets for these weights, less its defaults."""
        meta = _weights(entry).meta
        arguments: dict[str, Any] = {}
        for glob, given in _ARGUMENTS.items():
            if fnmatchcase(entry.architecture, glob):
                arguments |= given
        if meta.get("categories"):
            arguments["num_classes"] = len(meta["categories"])
        if entry.architecture.startswith("vit_"):
            arguments["image_size"] = meta["min_size"][0]
        return arguments

    def module(self, architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
        """The model that ``torchvision.models.get_model`` builds without weights."""
        model: nn.Module = get_model(architecture, **arguments)
        if isinstance(model, MNASNet):
            # MNASNet's own loader wants the version of the layout, which only pickles state.
            # Variants are stored in today's layout, so torch's plain loader is right for them.
            plain = MethodType(nn.Module._load_from_state_dict, model)
            model._load_from_state_dict = plain
        return model

    def build(self, entry: ModelEntry, in_chans: int) -> nn.Module:
        """The model as in `FixedZoo`. Raises Unsupported also for the reasons of `refusal`."""
        if reason := refusal(entry):
            raise Unsupported(reason)
        return super().build(entry, in_chans)

    def convert(
        self, entry: ModelEntry, model: nn.Module, content: dict[str, Any]
    ) -> tuple[Mapping[str, Any], bool]:
        """The checkpoint under today's names, without the heads that torchvision removes itself."""
        named = {str(name): value for name, value in content.items()}
        if entry.architecture.startswith("densenet"):
            named = {_OLD_NAME.sub(r"\1\2", name): value for name, value in named.items()}
        dropped = _DROPPED.get(entry.architecture, ())
        return {name: value for name, value in named.items() if not name.startswith(dropped)}, True


def _weights(entry: ModelEntry) -> WeightsEnum:
    return get_model_weights(entry.architecture)[entry.pretrained_tag]


def _size(weights: WeightsEnum, preset: nn.Module) -> tuple[int, int]:
    """(height, width) in pixels to which images are cropped, else resized; else the least size."""
    size = getattr(preset, "crop_size", None) or getattr(preset, "resize_size", None)
    size = size or weights.meta["min_size"]
    return size[0], size[-1]


def _kind(architecture: str) -> str:
    """The package of torchvision that defines the architecture: ``models`` for classifiers."""
    return str(get_model_builder(architecture).__module__.split(".")[-2])


def refusal(entry: ModelEntry) -> str:
    """Why the model can't be adapted; "" where no reason is known."""
    if _weights(entry).meta.get("categories", ()) is None:
        return "its weights are for features only: the values of its classifier are missing"
    reason = _REFUSED.get(_kind(entry.architecture), "")
    if not reason and _ARGUMENTS.get(entry.architecture, {}).get("transform_input"):
        return (
            "it splits the image into 3 channels to normalise each separately (transform_input), "
            "and drops all other channels"
        )
    return reason
