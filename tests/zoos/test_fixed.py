"""FixedZoo: a loaded model also has the values that no checkpoint holds."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from zooadapt.bands import RGB
from zooadapt.types import Listing, ModelEntry, ModelFacts
from zooadapt.zoos import timm_layers
from zooadapt.zoos.fixed import FixedZoo

Keep = Callable[[nn.Module, Tensor], None]

ENTRY = ModelEntry("scaled", "scaled", "scaled", "", None, url="package://their/scaled.pt")
KEEPS: dict[str, Keep] = {
    "a tensor": lambda model, scale: setattr(model, "scale", scale),
    "a buffer": lambda model, scale: model.register_buffer("scale", scale, persistent=False),
    "a list": lambda model, scale: setattr(model, "scale", [scale]),
    "a number": lambda model, scale: setattr(model, "scale", scale.max().item()),
    "an array": lambda model, scale: setattr(model, "scale", float(scale.numpy().max())),
}


class Scaled(nn.Module):
    """A convolution, and a scale that isn't among the model's weights."""

    scale: Any

    def __init__(self, keep: Keep) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2, 1)
        keep(self, torch.tensor([2.0, 3.0]).view(2, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        scale = self.scale[0] if isinstance(self.scale, list) else self.scale
        scaled: Tensor = self.stem(images) * scale
        return scaled


class ScaledZoo(FixedZoo):
    """A zoo of that one model."""

    name = "scaled"
    library = "torch"

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self.built_on: list[str] = []

    def models(self, listing: Listing) -> Iterable[ModelEntry]:
        return [ENTRY]

    def facts(self, entry: ModelEntry) -> ModelFacts:
        half = (0.5, 0.5, 0.5)
        return ModelFacts(RGB, height=8, width=8, mean=half, std=half, num_classes=0)

    def module(self, architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
        self.built_on.append(torch.get_default_device().type)
        return Scaled(self._keep)


def loaded(zoo: ScaledZoo, model: nn.Module, folder: Path) -> nn.Module:
    """The variant that is loaded from a model's config and weights."""
    config = zoo.config(ENTRY, model, zoo.facts(ENTRY))
    (folder / "config.json").write_text(json.dumps(config))
    zoo.built_on.clear()
    return zoo.load(folder, model.state_dict())


@pytest.mark.parametrize("kept", KEEPS)
def test_what_no_checkpoint_holds_has_its_values(kept: str, tmp_path: Path) -> None:
    zoo = ScaledZoo(KEEPS[kept])
    model, images = zoo.build(ENTRY, 4).eval(), torch.rand(2, 4, 8, 8)
    model.load_state_dict({name: torch.rand_like(t) for name, t in model.state_dict().items()})
    again = loaded(zoo, model, tmp_path)
    assert not again.training
    assert torch.equal(again(images), model(images))


def test_a_model_of_weights_alone_takes_their_memory_and_no_more(tmp_path: Path) -> None:
    zoo = ScaledZoo(lambda model, scale: setattr(model, "scale", 2.0))
    model = zoo.build(ENTRY, 4)
    again = loaded(zoo, model, tmp_path)
    assert zoo.built_on == ["meta"]
    for name, tensor in model.state_dict().items():
        assert again.state_dict()[name].data_ptr() == tensor.data_ptr()


def test_a_layer_of_timm_s_is_known() -> None:
    """A plug-in's model may be made of timm's layers."""
    zoo = ScaledZoo(KEEPS["a tensor"])
    for name, stem in (("eca_nfnet_l0", "stem.conv1"), ("tresnet_m", "body.conv1.conv")):
        model = timm.create_model(name)
        assert zoo.layer(model, stem, 3) == timm_layers.layer(model, stem, 3) is not None
