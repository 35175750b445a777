"""Stems are found by building twice, and never guessed."""

import pytest
import timm
import torch
from torch import nn

from zooadapt import schemes, stems
from zooadapt.errors import StemError, Unsupported
from zooadapt.records import Stem
from zooadapt.zoos import get


def found(name: str) -> tuple[Stem, ...]:
    zoo = get("timm")
    entry = next(entry for entry in zoo.models() if entry.name == name)
    with torch.device("meta"):
        base, probe = zoo.build(entry, 3), zoo.build(entry, 4)
    return stems.find(base, probe, 3, zoo.stems(entry, base))


class Net(nn.Module):
    """A model whose stem is whatever the test wants."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.body = nn.Linear(4, 4)


def test_a_plain_stem() -> None:
    assert found("resnet18.a1_in1k") == (Stem("conv1.weight", axis=1, outer=64, inner=49),)


def test_several_stems() -> None:
    names = [stem.name for stem in found("crossvit_9_240.in1k")]
    assert names == ["patch_embed.0.proj.weight", "patch_embed.1.proj.weight"]


def test_a_standardised_stem_is_known_not_to_be_linear() -> None:
    (stem,) = found("test_nfnet.r160_in1k") if timm.is_model("test_nfnet") else (None,)
    assert stem is not None
    assert stem.use == "standardise"


def test_a_colour_transform_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="fixed transform"):
        found("csatv2.r512_in1k")


def test_an_unknown_kind_is_unsupported_and_named() -> None:
    base, probe = (Net(nn.Conv2d(n * 2, 8, 3, groups=2)) for n in (3, 4))
    with pytest.raises(Unsupported, match=r"stem\.weight belongs to a Conv2d .* 2 group"):
        stems.find(base, probe, 3, ["stem"])


def test_what_is_found_must_be_what_is_declared() -> None:
    base, probe = (Net(nn.Conv2d(n, 8, 3)) for n in (3, 4))
    with pytest.raises(StemError, match=r"stem\.weight, but the model declares body\.weight"):
        stems.find(base, probe, 3, ["body"])


def test_tensors_that_come_and_go_are_an_error() -> None:
    base, probe = Net(nn.Conv2d(3, 8, 3)), Net(nn.Conv2d(4, 8, 3, bias=False))
    with pytest.raises(StemError, match=r"stem\.bias come and go"):
        stems.find(base, probe, 3, ["stem"])


def test_adapting_keeps_shape_and_is_contiguous() -> None:
    weight, stem = torch.randn(8, 3, 5, 5), Stem("w", axis=1, outer=8, inner=25)
    matrix = schemes.matrix("repeat", 3, 7)
    adapted = stems.adapt({"w": weight}, [stem], schemes.SCHEMES["repeat"], matrix)["w"]
    assert adapted.shape == (8, 7, 5, 5)
    assert adapted.is_contiguous()
    assert torch.equal(adapted[:, 3], adapted[:, 0])


@pytest.mark.parametrize("chans", [1, 2, 4])
def test_the_wrong_stem_differs_from_the_right_one(chans: int) -> None:
    stem = Stem("w", axis=1, outer=8, inner=9)
    for weight in (torch.randn(8, chans, 3, 3), torch.ones(8, chans, 3, 3)):
        assert not torch.equal(stems.roll(weight, stem, chans), weight)


def test_rolling_moves_every_channel() -> None:
    stem, weight = Stem("w", axis=1, outer=8, inner=9), torch.randn(8, 4, 3, 3)
    assert torch.equal(stems.roll(weight, stem, 4), weight.roll(1, dims=1))
