"""Matrices follow their formulas, and the contraction equals timm's bit for bit."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models._manipulate import adapt_input_conv
from torch import Tensor

from zooadapt.adapt import contract, schemes

CHANS = [1, 2, 3, 4, 6, 8, 13, 25]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("target", CHANS)
def test_repeat_equals_timm_bit_for_bit(target: int, dtype: torch.dtype) -> None:
    weight = torch.randn(16, 3, 7, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours = contract.contract(weight.reshape(16, 3, 49), schemes.matrix("repeat", 3, target))
    timms = adapt_input_conv(target, weight)
    assert ours.dtype == dtype
    assert torch.equal(ours.reshape(timms.shape), timms)


@given(source=st.integers(1, 16), target=st.integers(1, 40), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_contraction_is_the_matrix_product(source: int, target: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, source, 6, generator=generator)
    matrix = torch.randn(source, target, generator=generator, dtype=torch.float64)
    reference = torch.einsum("obi,bn->oni", weight.double(), matrix)
    assert torch.allclose(contract.contract(weight, matrix).double(), reference, atol=1e-4)


@given(source=st.integers(1, 16), target=st.integers(1, 40))
@settings(deadline=None)
def test_repeat_follows_its_formula(source: int, target: int) -> None:
    matrix = schemes.matrix("repeat", source, target)
    for k in range(source):
        for c in range(target):
            scaled = source / target if c % source == k else 0.0
            assert matrix[k, c] == (1.0 if target == 1 else scaled)


@given(chans=st.integers(2, 16))
def test_repeat_to_the_same_count_is_the_identity(chans: int) -> None:
    assert torch.equal(schemes.matrix("repeat", chans, chans), torch.eye(chans).double())


@pytest.mark.parametrize("target", CHANS)
def test_contracting_the_weight_is_mixing_the_image(target: int) -> None:
    generator = torch.Generator().manual_seed(target)
    weight = torch.randn(8, 3, 5, 5, generator=generator)
    image = torch.randn(2, target, 16, 16, generator=generator)
    matrix = schemes.matrix("repeat", 3, target)
    adapted = contract.contract(weight.reshape(8, 3, 25), matrix).reshape(8, target, 5, 5)
    direct = torch.nn.functional.conv2d(image, adapted)
    mixed = torch.nn.functional.conv2d(contract.mix_images(image, matrix), weight)
    assert torch.allclose(direct, mixed, atol=1e-4)


def test_an_infinite_source_channel_stays_where_it_is_used() -> None:
    weight = torch.tensor([[[torch.inf], [1.0], [2.0]]])
    adapted = contract.contract(weight, schemes.matrix("repeat", 3, 6))
    assert adapted.isfinite().flatten().tolist() == [False, True, True] * 2


def test_statistics_are_the_weighted_means() -> None:
    matrix = torch.tensor([[1.0, -1.0, 0.0], [1.0, 3.0, 0.0]], dtype=torch.float64)
    assert contract.mix_statistics([0.2, 0.6], matrix) == pytest.approx([0.4, 0.5, 0.4])


def test_statistics_of_repeat_are_the_source_s_in_turn() -> None:
    matrix = schemes.matrix("repeat", 3, 4)
    assert contract.mix_statistics([0.485, 0.456, 0.406], matrix) == [0.485, 0.456, 0.406, 0.485]


def test_channel_counts_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        schemes.matrix("repeat", 3, 0)


@given(source=st.integers(1, 16), target=st.integers(1, 40))
@settings(deadline=None)
def test_pad_and_mean_follow_their_formulas(source: int, target: int) -> None:
    pad, mean = (schemes.matrix(scheme, source, target) for scheme in ("pad", "mean"))
    for k in range(source):
        for c in range(target):
            assert pad[k, c] == (1.0 if c == k else 0.0)
            assert mean[k, c] == 1 / target


@given(target=st.integers(1, 30), scheme=st.sampled_from(["repeat", "mean"]))
@settings(deadline=None, max_examples=20)
def test_mean_keeps_the_response_to_grey_and_repeat_that_to_white(target: int, scheme: str) -> None:
    sums = schemes.matrix(scheme, 3, target).sum(dim=1)
    if scheme == "mean":
        assert torch.allclose(sums, torch.ones(3, dtype=torch.float64))
    assert sums.sum() == pytest.approx(3)


CONVOLUTIONS: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.nn.functional.linear,
    torch.nn.functional.conv1d,
    torch.nn.functional.conv2d,
    torch.nn.functional.conv3d,
]


@given(
    dims=st.integers(0, 3),
    source=st.integers(1, 6),
    target=st.integers(1, 12),
    scheme=st.sampled_from(["repeat", "pad", "mean"]),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=80)
def test_contraction_and_forward_commute(
    dims: int, source: int, target: int, scheme: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, source, *[3] * dims, generator=generator)
    image = torch.randn(2, target, *[6] * dims, generator=generator)
    matrix, apply = schemes.matrix(scheme, source, target), CONVOLUTIONS[dims]
    adapted = contract.contract(weight.reshape(5, source, -1), matrix)
    direct = apply(image, adapted.reshape(5, target, *weight.shape[2:]))
    mixed = apply(torch.einsum("kc,bc...->bk...", matrix.float(), image), weight)
    assert torch.allclose(direct, mixed, atol=1e-4)
