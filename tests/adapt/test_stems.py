"""Stems are found by building a model twice, and never guessed."""

from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers import ScaledStdConv2d
from torch import nn

from zooadapt import targets
from zooadapt.adapt import contract, exactness, schemes, stems
from zooadapt.errors import StemError, Unsupported
from zooadapt.types import Gain, Layer, Stem
from zooadapt.zoos.registry import get, list_models


def plain(model: nn.Module, name: str, chans: int) -> Layer | None:
    """The `Zoo.layer` of a zoo that has only torch's own layers."""
    return None


def found(name: str) -> tuple[Stem, ...]:
    zoo = get("timm")
    entry = next(entry for entry in list_models("timm") if entry.name == name)
    with torch.device("meta"):
        base, probe = zoo.build(entry, 3), zoo.build(entry, 4)
    return stems.find(base, probe, 3, zoo.stems(entry, base), zoo.layer)


class Net(nn.Module):
    """A model with any module that a test wants as its stem."""

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


@pytest.mark.parametrize("conv", [nn.Conv2d, nn.Conv3d])
def test_convolutions_of_two_and_three_dimensions(conv: type[nn.Conv2d | nn.Conv3d]) -> None:
    base, probe = (Net(conv(n, 8, 3)) for n in (3, 4))
    (stem,) = stems.find(base, probe, 3, ["stem"], plain)
    assert (stem.outer, stem.inner) == (8, 9 if conv is nn.Conv2d else 27)


def test_an_unknown_kind_is_unsupported_and_named() -> None:
    base, probe = (Net(nn.Conv2d(n * 2, 8, 3, groups=2)) for n in (3, 4))
    with pytest.raises(Unsupported, match=r"stem\.weight belongs to a Conv2d .* 2 group"):
        stems.find(base, probe, 3, ["stem"], plain)


def test_what_is_found_must_be_what_is_declared() -> None:
    base, probe = (Net(nn.Conv2d(n, 8, 3)) for n in (3, 4))
    with pytest.raises(StemError, match=r"stem\.weight, but the model declares body\.weight"):
        stems.find(base, probe, 3, ["body"], plain)


def test_tensors_that_come_and_go_are_an_error() -> None:
    base, probe = Net(nn.Conv2d(3, 8, 3)), Net(nn.Conv2d(4, 8, 3, bias=False))
    with pytest.raises(StemError, match=r"decides whether the model has stem\.bias"):
        stems.find(base, probe, 3, ["stem"], plain)


def test_adapting_keeps_shape_and_is_contiguous() -> None:
    weight, stem = torch.randn(8, 3, 5, 5), Stem("w", axis=1, outer=8, inner=25)
    matrix = schemes.matrix("repeat", 3, 7)
    adapted = contract.adapt({"w": weight}, [stem], targets.get_scheme("repeat"), matrix)["w"]
    assert adapted.shape == (8, 7, 5, 5)
    assert adapted.is_contiguous()
    assert torch.equal(adapted[:, 3], adapted[:, 0])


# Layouts, written by hand: the channel of a filter's input i, and the pixels of each channel.

LAYOUTS: dict[str, tuple[Callable[[int, int], int], int]] = {
    "test_resnet": (lambda i, chans: i, 1),  # (O, C, kH, kW)
    "tresnet_m": (lambda i, chans: i % chans, 16),  # 4 × 4 pixels, then the channel
    "naflexvit_base_patch16_gap": (lambda i, chans: i % chans, 256),  # (P, P, C)
    "gemma4_vit_167m": (lambda i, chans: i // 256, 256),  # (C, P, P)
}


@pytest.mark.parametrize("architecture", LAYOUTS)
@pytest.mark.parametrize("target", [1, 2, 5])
def test_every_input_gets_the_weight_of_its_own_channel(architecture: str, target: int) -> None:
    channel, pixels = LAYOUTS[architecture]
    tag = next(iter(timm.list_models(f"{architecture}.*", pretrained=True)))
    (stem,) = found(tag)
    with torch.device("meta"):
        shape = timm.create_model(tag).state_dict()[stem.name].shape
    values = torch.tensor([100.0, 10.0, 1.0])  # of red, green and blue
    inputs = torch.tensor([channel(i, 3) for i in range(3 * pixels)])
    weight = values[inputs].reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape)
    matrix = schemes.matrix("repeat", 3, target)
    adapted = contract.adapt({stem.name: weight}, [stem], targets.get_scheme("repeat"), matrix)
    mixed = values @ matrix.float()
    wanted = mixed[torch.tensor([channel(i, target) for i in range(target * pixels)])]
    got = adapted[stem.name]
    assert got.shape[1] == target * pixels
    assert torch.allclose(got[0].reshape(target * pixels, -1)[:, 0], wanted)


@pytest.mark.parametrize("chans", [1, 2, 4])
def test_the_wrong_stem_differs_from_the_right_one(chans: int) -> None:
    stem = Stem("w", axis=1, outer=8, inner=9)
    for weight in (torch.randn(8, chans, 3, 3), torch.ones(8, chans, 3, 3)):
        assert not torch.equal(contract.roll(weight, stem, chans), weight)


def test_rolling_moves_every_channel() -> None:
    stem, weight = Stem("w", axis=1, outer=8, inner=9), torch.randn(8, 4, 3, 3)
    assert torch.equal(contract.roll(weight, stem, 4), weight.roll(1, dims=1))


def test_a_gain_makes_up_for_the_standardisation() -> None:
    conv = ScaledStdConv2d(3, 8, 3, bias=False, gamma=1.7)
    torch.nn.init.normal_(conv.weight)
    torch.nn.init.uniform_(conv.gain, 0.5, 2)
    gain = Gain("gain", gamma=1.7, eps=conv.eps)
    stem = Stem("weight", axis=1, outer=8, inner=9, use="standardise", gain=gain)
    matrix, image = schemes.matrix("preserve", 3, 6), torch.randn(2, 6, 16, 16)
    adapted = contract.adapt(conv.state_dict(), [stem], targets.get_scheme("preserve"), matrix)
    six = ScaledStdConv2d(6, 8, 3, bias=False, gamma=1.7)
    six.load_state_dict(adapted)
    assert torch.allclose(six(image), conv(contract.mix_images(image, matrix)), atol=1e-5)
    assert is_exact(stem, "preserve", 6)
    assert not is_exact(stem, "repeat", 6)
    assert not is_exact(stem, "preserve", 8)


def test_under_the_identity_every_stem_is_exact() -> None:
    for stem in (STANDARDISED, SHIFTED):
        assert is_exact(stem, "repeat", 3)
        assert not is_exact(stem, "repeat", 4)


def is_exact(stem: Stem, scheme: str, chans: int) -> bool:
    matrix = schemes.matrix(scheme, 3, chans).tolist()
    return exactness.exact([stem], targets.get_scheme(scheme), matrix)


STANDARDISED = Stem("w", axis=1, outer=8, inner=9, use="standardise")
SHIFTED = Stem("w", axis=1, outer=8, inner=9, use="shift")
