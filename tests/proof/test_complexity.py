"""What a model's forward pass costs, as the tables of timm and fvcore count it."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.support.pipelines import entry
from zooadapt import pipeline
from zooadapt.proof import complexity
from zooadapt.types import Complexity, Stem
from zooadapt.zoos import registry
from zooadapt.zoos.meta import shapes_only


def counted(model: str) -> tuple[Complexity, int]:
    """What a model costs, and for how many channels."""
    zoo = registry.get("timm")
    facts = zoo.facts(entry(model))
    base, probe, stems = pipeline.inspect(entry(model), zoo, facts)
    cost = complexity.count(base, probe, stems, (facts.chans, *facts.size))
    assert cost
    return cost, facts.chans


@pytest.mark.parametrize(
    ("model", "gmacs", "macts"),
    [  # as the README of timm's results and benchmark tables have them
        ("resnet50.a1_in1k", 4.11, 11.11),
        ("vit_base_patch16_224.augreg_in21k", 17.6, 23.9),
        ("convnext_tiny.fb_in1k", 4.47, 13.44),
        ("efficientnet_b0.ra_in1k", 0.40, 6.75),
    ],
)
def test_the_figures_are_those_of_timm_s_tables(model: str, gmacs: float, macts: float) -> None:
    cost, _ = counted(model)
    assert cost.macs / 1e9 == pytest.approx(gmacs, rel=0.05)
    assert cost.activations / 1e6 == pytest.approx(macts, rel=0.05)


@pytest.mark.parametrize("model", ["resnet18.a1_in1k", "crossvit_9_240.in1k", "test_vit.r160_in1k"])
def test_each_channel_costs_what_a_wider_model_costs_more(model: str) -> None:
    cost, chans = counted(model)
    with shapes_only(), torch.inference_mode(), FlopCounterMode(display=False) as flops:
        wide = timm.create_model(model, in_chans=8).eval()
        wide(torch.zeros(1, 8, *timm.get_pretrained_cfg(model).input_size[1:]))
    assert cost.macs_of_channel > 0
    assert cost.macs + (8 - chans) * cost.macs_of_channel == flops.get_total_flops() // 2


def test_counting_leaves_nothing_in_transformers_caches() -> None:
    """BEiT keeps indices by image size: a meta tensor there would break every later pass."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BeitConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=24, patch_size=8, use_relative_position_bias=True,
    )  # fmt: skip
    with torch.device("meta"):
        base = transformers.BeitModel(config).eval()
        config.num_channels = 4
        probe = transformers.BeitModel(config).eval()
    stem = Stem("embeddings.patch_embeddings.projection.weight", 1, 16, 64)
    assert complexity.count(base, probe, [stem], (3, 24, 24))
    config.num_channels = 3
    assert transformers.BeitModel(config).eval()(torch.zeros(1, 3, 24, 24))


def test_what_cannot_be_run_on_the_meta_device_is_not_counted() -> None:
    class Asks(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image if image.sum().item() > 0 else -image

    with torch.device("meta"):
        assert complexity.count(Asks(), Asks(), [Stem("a.weight", 1, 1, 1)], (3, 8, 8)) is None
