"""The proof accepts right variants, and nothing else."""

import gc
import weakref
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from jobs.measure.seeded import let_through
from zooadapt import bands, targets, types
from zooadapt.adapt import contract, schemes
from zooadapt.errors import ValidationError
from zooadapt.proof import compare, devices, passes
from zooadapt.types import TOLERANCE, ProofResult, Stem

CPU = torch.device("cpu")
STEM = Stem("stem.weight", axis=1, outer=16, inner=9)


class Net(nn.Module):
    """A convolution and a classifier; `image` scales how far the image moves the output."""

    def __init__(self, chans: int, image: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(chans, 16, 3)
        self.head = nn.Linear(16, 5)
        self.image = image

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.image * torch.relu(self.stem(x)).mean((2, 3))
        output: torch.Tensor = self.head(features) + 100 * (1 - self.image)
        return output


def nets(target: int, image: float = 1.0) -> tuple[Net, Net]:
    """A base with 3 channels and its right variant."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base, variant = Net(3, image).eval(), Net(target, image).eval()
        let_through(base)
    return base, adapt(base, variant)


def adapt(base: Net, variant: Net) -> Net:
    """Put the right values into a variant of a base; returns the variant."""
    matrix = schemes.matrix("repeat", 3, variant.stem.in_channels)
    adapted = contract.adapt(base.state_dict(), [STEM], targets.get_scheme("repeat"), matrix)
    variant.load_state_dict({**base.state_dict(), **adapted})
    return variant


def proof(base: Net, variant: Net, matrix: torch.Tensor | None = None) -> ProofResult:
    """The comparison by outputs: mutants pass the check of the stored bits, and are run."""
    if matrix is None:
        matrix = schemes.matrix("repeat", 3, variant.stem.in_channels)
    stored = {STEM.name: variant.stem.weight.detach()}
    wide = {STEM.name: variant.stem.weight.detach().double()}
    prover = compare.Prover(base, [STEM], {}, (3, 32, 32), CPU)
    return prover.compare(variant, matrix, stored, wide)


def whole_proof(base: Net, variant: Net) -> ProofResult:
    """The proof as the job does it."""
    matrix = schemes.matrix("repeat", 3, variant.stem.in_channels)
    original = {STEM.name: base.stem.weight.detach()}
    prover = compare.Prover(base, [STEM], original, (3, 32, 32), CPU)
    return prover.prove(variant, targets.get_scheme("repeat"), matrix)


@pytest.mark.parametrize("target", [1, 2, 3, 4, 25])
def test_a_right_variant_passes(target: int) -> None:
    result = proof(*nets(target))
    assert result.equivalent
    assert result.proof == "forward"
    assert result.equivalence_error < 1e-5
    assert result.control_error > 0.01


@pytest.mark.parametrize("target", [1, 2, 4])
@pytest.mark.parametrize("mutant", ["rolled", "unscaled", "zero", "transposed"])
def test_a_wrong_stem_does_not(target: int, mutant: str) -> None:
    base, variant = nets(target)
    weight = variant.stem.weight.data
    variant.stem.weight.data = {
        "rolled": contract.roll(weight, STEM, target),
        "unscaled": weight * target / 3 if target > 1 else weight / 3,
        "zero": torch.zeros_like(weight),
        "transposed": weight.transpose(2, 3),
    }[mutant]
    result = proof(base, variant)
    assert not result.equivalent
    assert result.equivalence_error > 100 * types.TOLERANCE


@pytest.mark.parametrize("target", [3, 4, 25])
def test_source_channels_permuted_in_the_contraction_are_caught(target: int) -> None:
    base, variant = nets(target)
    permuted = {STEM.name: base.stem.weight.detach()[:, [1, 2, 0]]}
    variant.stem.weight.data = contracted(permuted, schemes.matrix("repeat", 3, target))
    assert proof(base, variant).equivalence_error > 100 * types.TOLERANCE


def test_permuted_source_channels_are_no_fault_where_all_are_summed() -> None:
    base, variant = nets(1)
    permuted = {STEM.name: base.stem.weight.detach()[:, [1, 2, 0]]}
    variant.stem.weight.data = contracted(permuted, schemes.matrix("repeat", 3, 1))
    assert proof(base, variant).equivalent


def test_two_swapped_channels_are_caught() -> None:
    base, variant = nets(4)
    variant.stem.weight.data = variant.stem.weight.data[:, [1, 0, 2, 3]]
    assert proof(base, variant).equivalence_error > 100 * types.TOLERANCE


def test_red_for_blue_is_caught() -> None:
    sensor = bands.parse("sentinel2-l2a")
    matrix = schemes.matrix("rgb-only", bands.RGB, sensor)
    base, variant = nets(len(sensor))
    right = {STEM.name: base.stem.weight.detach()}
    variant.stem.weight.data = contracted(right, matrix)
    assert proof(base, variant, matrix).equivalent
    base, _ = nets(len(sensor))
    variant.stem.weight.data = contracted(right, matrix.flip(0))
    assert proof(base, variant, matrix).equivalence_error > 100 * types.TOLERANCE


def contracted(tensors: dict[str, torch.Tensor], matrix: torch.Tensor) -> torch.Tensor:
    adapted: torch.Tensor = contract.adapt(tensors, [STEM], targets.get_scheme("repeat"), matrix)[
        STEM.name
    ]
    return adapted


class Constant(Net):
    """A model that ignores the image where it has 4 channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.zeros_like(x) if x.shape[1] == 4 else x)


def test_a_wrong_filter_that_ignores_the_image_is_caught() -> None:
    base, variant = nets(4)
    variant.__class__ = Constant
    assert not proof(base, variant).equivalent


class TwoStems(Net):
    """A second stem, whose output hardly reaches the model's."""

    def __init__(self, chans: int) -> None:
        super().__init__(chans)
        self.other = nn.Conv2d(chans, 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        trace: torch.Tensor = 1e-9 * self.other(x).mean()
        return super().forward(x) + trace


class InPlace(Net):
    """A model that changes its stem's output in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = torch.relu_(self.stem(x)).mean((2, 3))
        output: torch.Tensor = self.head(features)
        return output


def test_a_control_that_changes_nothing_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    base, variant = nets(4)
    base.__class__ = variant.__class__ = InPlace
    assert proof(base, variant).control_error > types.LEAST_CONTROL
    monkeypatch.setattr(contract, "roll", lambda tensor, stem, chans: tensor)
    base, variant = nets(4)
    base.__class__ = variant.__class__ = InPlace
    assert proof(base, variant).control_error < 1e-6


def test_one_wrong_stem_of_several_is_caught_at_its_own_output() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base, variant = TwoStems(3).eval(), TwoStems(4).eval()
        let_through(base)
    both = [STEM, replace(STEM, name="other.weight")]
    matrix, scheme = schemes.matrix("repeat", 3, 4), targets.get_scheme("repeat")
    right = contract.adapt(base.state_dict(), both, scheme, matrix)
    for name, mutate in (("right", False), ("wrong", True)):
        stored = {n: t.clone() for n, t in right.items()}
        if mutate:
            stored["other.weight"] = contract.roll(stored["other.weight"], STEM, 4)
        variant.load_state_dict({**base.state_dict(), **stored})
        prover = compare.Prover(base, both, {}, (3, 32, 32), CPU)
        result = prover.compare(variant, matrix, stored, None)
        assert (result.proof, result.equivalent) == ("forward", not mutate), name


def test_a_body_that_differs_in_one_bit_is_an_error() -> None:
    base, variant = nets(4)
    variant.head.weight.data.view(torch.int32)[0, 0] ^= 1
    with pytest.raises(ValidationError, match=r"head\.weight differs from the source's"):
        whole_proof(base, variant)


@pytest.mark.parametrize("image", [1e-7, 0.0])
def test_where_the_output_cannot_tell_the_stems_are_compared(image: float) -> None:
    base, variant = nets(4, image)
    result = proof(base, variant)
    assert result.proof == "stem"
    assert result.equivalent
    variant.stem.weight.data = contract.roll(variant.stem.weight.data, STEM, 4)
    assert not proof(base, variant).equivalent


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_proved_before_its_rounding(dtype: torch.dtype) -> None:
    base, variant = nets(4)
    exact = proof(base, variant).equivalence_error
    base, _ = nets(4)
    base.stem.to(dtype)
    variant = half(base, dtype)
    result = whole_proof(base, variant)
    assert result.equivalent
    assert result.equivalence_error > 10 * exact


def half(base: Net, dtype: torch.dtype) -> Net:
    """The 4-channel variant of a base whose stem is stored in half precision."""
    _, variant = nets(4)
    matrix = schemes.matrix("repeat", 3, 4)
    adapted = contract.adapt(base.state_dict(), [STEM], targets.get_scheme("repeat"), matrix)
    variant.stem.to(dtype)
    variant.load_state_dict(adapted, strict=False)
    return variant


class Steep(Net):
    """A model that amplifies small differences, rounding included, as deep models do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(1e5 * super().forward(x))


def steep(mutant: bool = False) -> tuple[Net, Net]:
    base, variant = nets(25)
    base.__class__ = variant.__class__ = Steep
    if mutant:
        variant.stem.weight.data = contract.roll(variant.stem.weight.data, STEM, 25)
    return base, variant


def test_where_float32_cannot_tell_float64_does() -> None:
    base, variant = steep()
    result = whole_proof(base, variant)
    assert result.equivalence_error > types.TOLERANCE
    assert result.equivalent
    assert variant.stem.weight.dtype == torch.float32
    assert not proof(*steep(mutant=True)).equivalent


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_stored_stem_off_by_one_bit_is_an_error(dtype: torch.dtype) -> None:
    base, _ = nets(4)
    base.stem.to(dtype)
    variant = half(base, dtype)
    bits = variant.stem.weight.data.view(torch.int16)
    bits[0, 0, 0, 0] ^= 1
    with pytest.raises(ValidationError, match=r"stem\.weight isn't the source's stem"):
        whole_proof(base, variant)


def test_the_stem_is_put_back_untouched() -> None:
    base, variant = nets(4)
    before = variant.stem.weight.detach().clone()
    proof(base, variant)
    assert torch.equal(variant.stem.weight, before)


class Wider(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([super().forward(x), x.mean((1, 2, 3))[:, None]], dim=1)


def test_an_output_of_another_shape_is_an_error() -> None:
    base, variant = nets(4)
    variant.__class__ = Wider
    with pytest.raises(
        ValidationError, match=r"shapes \[\(1, 6\)\] where the base's has \[\(1, 5\)\]"
    ):
        proof(base, variant)


class Infinite(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 0


def test_an_output_that_is_not_finite_is_an_error() -> None:
    base, variant = nets(4)
    variant.__class__ = Infinite
    with pytest.raises(ValidationError, match="NaN"):
        proof(base, variant)


def test_nested_outputs_are_all_compared() -> None:
    nested = {"a": [torch.zeros(2, 1), (torch.ones(2, 2),)], "b": torch.ones(2, 3).half()}
    assert [tuple(t.shape) for t in passes.tensors(nested)] == [(2, 1), (2, 2), (2, 3)]


def proof_on_gpu() -> ProofResult:
    base, variant = nets(4)
    matrix = schemes.matrix("repeat", 3, 4)
    original = {STEM.name: base.stem.weight.detach().clone()}
    prover = compare.Prover(base, [STEM], original, (3, 224, 224), devices.best())
    return prover.prove(variant, targets.get_scheme("repeat"), matrix)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_proof_on_a_gpu_is_in_full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert proof_on_gpu().equivalence_error <= TOLERANCE
    image, weight = (torch.randn(size, device="cuda") for size in ((1, 3, 224, 224), (16, 3, 3, 3)))
    rounded = nn.functional.conv2d(image, weight)
    with devices.full_float32():
        if torch.equal(rounded, nn.functional.conv2d(image, weight)):
            pytest.skip("this GPU doesn't use TF32 for the convolution")
    monkeypatch.setattr(devices, "full_float32", nullcontext)
    assert proof_on_gpu().equivalence_error > TOLERANCE, "TF32 would be seen"


class Dead(Net):
    """A model whose stem gives the same for every image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.zeros_like(x))


def test_a_stem_that_no_image_moves_proves_nothing() -> None:
    base, variant = nets(4)
    base.__class__ = variant.__class__ = Dead
    assert not proof(base, variant).equivalent


def test_each_variant_takes_one_pass_and_the_base_three() -> None:
    base, _ = nets(4)
    images: list[tuple[str, torch.Size]] = []
    base.register_forward_hook(lambda m, x, y: images.append(("base", x[0].shape)))
    prover = compare.Prover(base, [STEM], base.state_dict(), (3, 32, 32), CPU)
    for target in (4, 8, 1, 25):
        matrix = schemes.matrix("repeat", 3, target)
        variant = adapt(base, Net(target).eval())
        variant.register_forward_hook(lambda m, x, y: images.append(("variant", x[0].shape)))
        assert prover.prove(variant, targets.get_scheme("repeat"), matrix).equivalent
    assert [who for who, _ in images] == [*["base"] * 3, *["variant"] * 4]
    assert all(shape[0] == 1 for _, shape in images)


def test_a_prover_that_is_done_with_holds_no_model() -> None:
    base, variant = nets(4)
    matrix = schemes.matrix("repeat", 3, 4)
    prover = compare.Prover(base, [STEM], base.state_dict(), (3, 32, 32), CPU)
    prover.prove(variant, targets.get_scheme("repeat"), matrix)
    held = weakref.ref(base)
    gc.disable()  # large models can't wait for it
    try:
        del base, prover
        assert held() is None
    finally:
        gc.enable()


def test_the_variants_share_the_bases_tensors() -> None:
    base, variant = nets(4)
    matrix = schemes.matrix("repeat", 3, 4)
    prover = compare.Prover(base, [STEM], base.state_dict(), (3, 32, 32), CPU)
    prover.prove(variant, targets.get_scheme("repeat"), matrix)
    assert variant.head.weight.data_ptr() == base.head.weight.data_ptr()
