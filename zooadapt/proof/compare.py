"""The proof: a variant and its base are run, and the variant must compute base(M·x).

A proof takes a batch x of two different seeded images and runs both models in float32, in eval mode
and with TF32 off. With b = base(M·x), the outputs for the two images being b₀ and b₁, it measures

    equivalence_error = max|adapted(x) - b| / max|b₀ - b₁|

The divisor is how far another image moves the output. `control_error` is the same figure for a stem
known to be wrong, on the first image. That stem has its image channels rolled by one, or its sign
flipped where rolling changes nothing. The variant is `equivalent` if its error is at most TOLERANCE
and the control is at least LEAST_CONTROL, 100 times as much. If the control is smaller, the model's
outputs can't tell a right stem from a wrong one; then the stem modules' outputs are compared.

Rounding alone can move an output further than some wrong stems do. In deep models float32's
rounding moves it by up to 1e-3 (with random weights); in any model, rounding W·M to half precision
moves it by 1e-4 to 0.5. So there are two more rules:

- Every stored stem must equal the rounded W·M bit for bit.
- Where a variant that should be exact has an error above the tolerance, both models are run again
  in float64, with W·M unrounded. The variant is `equivalent` if that error is within the tolerance;
  `equivalence_error` stays that of the stored stem.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from zooadapt.adapt import contract
from zooadapt.adapt.contract import mix_images
from zooadapt.errors import ValidationError
from zooadapt.proof.passes import Outputs, Pass, images_for, run, run_to_stems, seeded_images
from zooadapt.targets import Scheme
from zooadapt.types import LEAST_CONTROL, TOLERANCE, Proof, ProofResult, Stem


class Prover:
    """Proves the variants of one base model, one after the other, on one device.

    The prover takes the base over. It moves the base to the device, turns it to float32, and shares
    the base's tensors with the variants. It keeps the base's outputs for the next variants.
    """

    def __init__(
        self,
        base: nn.Module,
        stems: Sequence[Stem],
        originals: Mapping[str, Tensor],
        input_size: tuple[int, ...],
        device: torch.device,
    ) -> None:
        """`originals` are the base's stem tensors by name; `input_size` is `ModelFacts.size`."""
        self._stems, self._originals = stems, originals
        self._size, self._device = input_size, device
        self._stored = base.state_dict()
        self._base = base.float().to(device)
        self._common: Pass | None = None

    def prove(self, variant: nn.Module, scheme: Scheme, matrix: Tensor) -> ProofResult:
        """Adapt the originals again by M, (B, N), and `compare` the variant with the result."""
        adapted = contract.adapt(self._originals, self._stems, scheme, matrix)
        exact = _is_exact(self._stems, scheme, matrix)
        unrounded = (
            contract.unrounded(self._originals, self._stems, scheme, matrix) if exact else None
        )
        return self.compare(variant, matrix, adapted, unrounded)

    def compare(
        self,
        variant: nn.Module,
        matrix: Tensor,
        adapted: Mapping[str, Tensor],
        unrounded: Mapping[str, Tensor] | None,
    ) -> ProofResult:
        """Run the variant (N channels) and the base (B channels), and compare their outputs.

        `matrix` is M, (B, N). `adapted` holds the stem tensors that the variant must have;
        `unrounded` holds the same in float64, or is None where the variant needn't compute
        base(M·x). The variant is left on the device in float32.

        Raises ValidationError where a stored stem isn't the adapted one, where the outputs differ
        in number or shape or aren't finite, and where the forward pass doesn't call a stem.
        """
        _check_stored(variant, adapted)
        with torch.inference_mode(), _full_float32():
            common = self._share(variant)
            variant.float().to(self._device)
            images, wanted = self._wanted(matrix)
            got = run(variant, images, self._stems)
            _check_outputs(got.final, wanted.final)
            with _replaced(variant, _wrong(variant, self._stems, matrix.shape[1])):
                wrong = run(variant, _enough(images, wanted), self._stems)
            result = judge(got, wanted, wrong)
            if result.equivalent or unrounded is None or result.control_error < LEAST_CONTROL:
                return result
            within = self._exact_error(variant, common, matrix, unrounded, images, result.proof)
        return replace(result, equivalent=within <= TOLERANCE)

    def _share(self, variant: nn.Module) -> list[str]:
        """Replace the variant's tensors by the base's where both are equal; returns their names."""
        state = variant.state_dict()
        common = [name for name in state if _same(state[name], self._stored.get(name))]
        self._hand_over(variant, common)
        return common

    def _hand_over(self, variant: nn.Module, names: Sequence[str]) -> None:
        """Put the base's tensors of these names into the variant, without a copy."""
        state = self._base.state_dict()
        variant.load_state_dict({name: state[name] for name in names}, strict=False, assign=True)

    def _wanted(self, matrix: Tensor) -> tuple[Tensor, Pass]:
        """Images x, (2, N, *size), and the base's outputs for M·x.

        Where M can make any image, x is chosen so that M·x is the same for all such variants; then
        the base is run once for all of them.
        """
        z = seeded_images(matrix.shape[0], self._size)
        images = images_for(z, matrix)
        if images is None:
            images = seeded_images(matrix.shape[1], self._size)
            mixed = mix_images(images, matrix).to(self._device)
            return images.to(self._device), run(self._base, mixed, self._stems)
        if self._common is None:
            self._common = run(self._base, z.to(self._device), self._stems)
        return images.to(self._device), self._common

    def _exact_error(
        self,
        variant: nn.Module,
        common: Sequence[str],
        matrix: Tensor,
        unrounded: Mapping[str, Tensor],
        images: Tensor,
        proof: Proof,
    ) -> float:
        """The error in float64 with the unrounded W·M; base and variant end in float32 again."""
        self._base.double()
        self._hand_over(variant, common)
        variant.double()
        try:
            wanted = run(self._base, mix_images(images.double(), matrix), self._stems)
            with _replaced(variant, unrounded):
                got = run(variant, images.double(), self._stems)
        finally:
            self._base.float()
            self._hand_over(variant, common)
            variant.float()
        return float(_distances(got, wanted, proof).max())


def _same(one: Tensor, other: Tensor | None) -> bool:
    """Whether the tensors have the same dtype, shape and values."""
    if other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)


def check(result: ProofResult, stems: Sequence[Stem], scheme: Scheme, matrix: Tensor) -> None:
    """Raise ValidationError if the variant should compute base(M·x) but doesn't."""
    if not result.equivalent and _is_exact(stems, scheme, matrix):
        raise ValidationError(
            f"the variant doesn't compute base(M·x): error {result.equivalence_error:.2g}, "
            f"control {result.control_error:.2g} ({result.proof})"
        )


def _is_exact(stems: Sequence[Stem], scheme: Scheme, matrix: Tensor) -> bool:
    """Whether the variant should compute base(M·x), except for rounding."""
    return all(contract.exact(stem, scheme, matrix) for stem in stems)


def prove_stems(
    variant: nn.Module,
    base: nn.Module,
    stems: Sequence[Stem],
    matrix: Tensor,
    input_size: tuple[int, ...],
) -> ProofResult:
    """Compare the outputs of the stem modules only, for float32 stems and a (B, N) matrix.

    The forward passes end after the last stem, so the rest of both models can be on the meta
    device. Raises ValidationError where the forward pass doesn't call a stem.
    """
    images = seeded_images(matrix.shape[1], input_size)
    with torch.inference_mode(), _full_float32():
        wanted = run_to_stems(base, mix_images(images, matrix), stems)
        got = run_to_stems(variant, images, stems)
        with _replaced(variant, _wrong(variant, stems, matrix.shape[1])):
            wrong = run_to_stems(variant, images, stems)
    return judge(got, wanted, wrong)


def _check_stored(variant: nn.Module, adapted: Mapping[str, Tensor]) -> None:
    state = variant.state_dict()
    for name, tensor in adapted.items():
        if state[name].dtype != tensor.dtype or not torch.equal(state[name], tensor):
            raise ValidationError(f"{name} isn't the source's stem contracted with the matrix")


def _enough(images: Tensor, wanted: Pass) -> Tensor:
    """The images for the control: only the first, if every output has one row for each image."""
    rows = {len(output) for output in [*wanted.final, *wanted.stems]}
    return images[:1] if rows == {len(images)} else images


def _check_outputs(got: Outputs, wanted: Outputs) -> None:
    shapes, expected = [tuple(t.shape) for t in got], [tuple(t.shape) for t in wanted]
    if not got or shapes != expected:
        raise ValidationError(f"the output has shapes {shapes} where the base's has {expected}")
    if not all(bool(tensor.isfinite().all()) for tensor in got):
        raise ValidationError("the output has NaN or infinite values")


def judge(got: Pass, wanted: Pass, wrong: Pass) -> ProofResult:
    """The result of a proof, from the passes of the variant, the base and the control."""
    tells = got.final and distance(wrong.final, wanted.final) >= LEAST_CONTROL
    proof: Proof = "forward" if tells else "stem"
    error = float(_distances(got, wanted, proof).max())
    control = float(_distances(wrong, wanted, proof).min())
    return ProofResult(error, control, error <= TOLERANCE and control >= LEAST_CONTROL, proof)


def _distances(got: Pass, wanted: Pass, proof: Proof) -> Tensor:
    """The distance of all outputs, or of each stem's: a tensor, whose max and min keep NaN."""
    pairs = [(got.final, wanted.final)]
    if proof == "stem":
        pairs = [([g], [w]) for g, w in zip(got.stems, wanted.stems, strict=True)]
    return torch.tensor([distance(g, w) for g, w in pairs], dtype=torch.float64)


def distance(got: Outputs, wanted: Outputs) -> float:
    """max|got - wanted| in units of max|wanted₀ - wanted₁|, the effect of another image.

    `got` can be the outputs of the first image alone. NaN where the image has no effect.
    """
    moved = max(float((b[0] - b[1]).abs().max()) for b in wanted)
    apart = max(float((a - b[: len(a)]).abs().max()) for a, b in zip(got, wanted, strict=True))
    return apart / moved if moved > 0 else float("nan")


def _wrong(model: nn.Module, stems: Sequence[Stem], chans: int) -> dict[str, Tensor]:
    """The stems of the control, by name: those of `model` made wrong on purpose."""
    parameters = dict(model.named_parameters())
    return {stem.name: contract.roll(parameters[stem.name], stem, chans) for stem in stems}


@contextmanager
def _replaced(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block, the model's parameters of these names hold these values instead."""
    parameters = dict(model.named_parameters())
    before = {name: parameters[name].data for name in tensors}
    for name, tensor in tensors.items():  # not written in place: the old one may be a mapped file
        parameters[name].data = tensor.to(before[name].device)
    try:
        yield
    finally:
        for name, tensor in before.items():
            parameters[name].data = tensor


@contextmanager
def _full_float32() -> Iterator[None]:
    """Within the block, TF32 is off for matrix products and convolutions."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
