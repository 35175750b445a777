"""The forward pass and the proof: a published variant must compute base(M·x).

The proof of a variant, for a batch x of two different seeded images, in float32, eval mode and
with TF32 off, where b = base(M·x):

    equivalence_error = max|adapted(x) - b| / max|b₀ - b₁|

The divisor is how far the image moves the output. `control_error` is the same figure, for the first
image, of a stem known to be wrong (its image channels rolled; the sign flipped where that changes
nothing). The variant is `equivalent` if its error is at most TOLERANCE and the control at least 100
times that. Where the control is smaller, the model's outputs can't tell a right stem from a wrong
one, and the outputs of the stem modules are compared instead.

Rounding alone can move an output by more than some wrong stems do: float32's in deep models (with
random weights up to 1e-3), and that of W·M to half precision in any (1e-4 to 0.5). So every stored
stem must be W·M, rounded, bit for bit; and where the error of a variant that should be exact is
above the tolerance, both models are run once more in float64, with W·M before its rounding, and
that must be within it. `equivalence_error` is that of the stored stem all the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from zooadapt.adapt import contract
from zooadapt.adapt.contract import mix_images
from zooadapt.errors import ValidationError
from zooadapt.proof.images import images_for, seeded_images
from zooadapt.proof.passes import Outputs, Pass, run, run_to_stems
from zooadapt.targets import Scheme
from zooadapt.types import LEAST_CONTROL, TOLERANCE, Proof, ProofResult, Stem


class Prover:
    """A base model on a device, and what it gave; proves variants of it, one after the other.

    Takes the base over: it is left on the device in float32, its tensors shared with the variants.
    """

    def __init__(
        self,
        base: nn.Module,
        stems: Sequence[Stem],
        originals: Mapping[str, Tensor],
        input_size: tuple[int, ...],
        device: torch.device,
    ) -> None:
        """`originals` are the base's stem tensors; `input_size` is that of `ModelFacts.size`."""
        self._stems, self._originals = stems, originals
        self._size, self._device = input_size, device
        self._stored = base.state_dict()
        self._base = base.float().to(device)
        self._common: Pass | None = None

    def prove(self, variant: nn.Module, scheme: Scheme, matrix: Tensor) -> ProofResult:
        """`compare` for a variant made under a scheme from the originals."""
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
        """Run the variant (N channels) and the base (B channels), and compare.

        `matrix` is M (B, N); `adapted` are the stems' tensors that the variant must hold,
        `unrounded` the same in float64, or None where the variant needn't compute base(M·x). The
        variant is left on the device in float32.

        Raises ValidationError where a stored stem isn't the adapted one; where the outputs differ
        in number or shape, or aren't finite; and where a stem isn't called.
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
        """Give the variant the base's own tensors where both hold the same; returns their names."""
        state = variant.state_dict()
        common = [name for name in state if _same(state[name], self._stored.get(name))]
        self._hand_over(variant, common)
        return common

    def _hand_over(self, variant: nn.Module, names: Sequence[str]) -> None:
        state = self._base.state_dict()
        variant.load_state_dict({name: state[name] for name in names}, strict=False, assign=True)

    def _wanted(self, matrix: Tensor) -> tuple[Tensor, Pass]:
        """Images x (2, N, height, width), and what the base gives for M·x.

        Wherever M can make any image, the images are such that M·x is the same for every variant,
        and the base is run once for all.
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
        """The error in float64, of W·M before it was rounded."""
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
    """Whether the tensors are equal, and of one dtype."""
    if other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)


def check(result: ProofResult, stems: Sequence[Stem], scheme: Scheme, matrix: Tensor) -> None:
    """Raise ValidationError if the variant should compute base(M·x) and doesn't."""
    if not result.equivalent and _is_exact(stems, scheme, matrix):
        raise ValidationError(
            f"the variant doesn't compute base(M·x): error {result.equivalence_error:.2g}, "
            f"control {result.control_error:.2g} ({result.proof})"
        )


def _is_exact(stems: Sequence[Stem], scheme: Scheme, matrix: Tensor) -> bool:
    return all(contract.exact(stem, scheme, matrix) for stem in stems)


def prove_stems(
    variant: nn.Module,
    base: nn.Module,
    stems: Sequence[Stem],
    matrix: Tensor,
    input_size: tuple[int, ...],
) -> ProofResult:
    """The same for the outputs of float32 stems alone: the passes end with the last stem.

    What lies behind the stems isn't run and may be on the meta device.
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
    """The images for a control: the first is enough where outputs have one row an image."""
    rows = {len(output) for output in [*wanted.final, *wanted.stems]}
    return images[:1] if rows == {len(images)} else images


def _check_outputs(got: Outputs, wanted: Outputs) -> None:
    shapes, expected = [tuple(t.shape) for t in got], [tuple(t.shape) for t in wanted]
    if not got or shapes != expected:
        raise ValidationError(f"the output has shapes {shapes} where the base's has {expected}")
    if not all(bool(tensor.isfinite().all()) for tensor in got):
        raise ValidationError("the output has NaN or infinite values")


def judge(got: Pass, wanted: Pass, wrong: Pass) -> ProofResult:
    tells = got.final and distance(wrong.final, wanted.final) >= LEAST_CONTROL
    proof: Proof = "forward" if tells else "stem"
    error = float(_distances(got, wanted, proof).max())
    control = float(_distances(wrong, wanted, proof).min())
    return ProofResult(error, control, error <= TOLERANCE and control >= LEAST_CONTROL, proof)


def _distances(got: Pass, wanted: Pass, proof: Proof) -> Tensor:
    """Of the outputs together, or of each stem; as a tensor, whose extremes heed NaN."""
    pairs = [(got.final, wanted.final)]
    if proof == "stem":
        pairs = [([g], [w]) for g, w in zip(got.stems, wanted.stems, strict=True)]
    return torch.tensor([distance(g, w) for g, w in pairs], dtype=torch.float64)


def distance(got: Outputs, wanted: Outputs) -> float:
    """max|got - wanted| in units of max|wanted₀ - wanted₁|, the effect of another image.

    `got` may have the outputs of the first image only.
    """
    moved = max(float((b[0] - b[1]).abs().max()) for b in wanted)
    apart = max(float((a - b[: len(a)]).abs().max()) for a, b in zip(got, wanted, strict=True))
    return apart / moved if moved > 0 else float("nan")


def _wrong(model: nn.Module, stems: Sequence[Stem], chans: int) -> dict[str, Tensor]:
    """The model's stems as they are known to be wrong."""
    parameters = dict(model.named_parameters())
    return {stem.name: contract.roll(parameters[stem.name], stem, chans) for stem in stems}


@contextmanager
def _replaced(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the model's parameters of these names hold these values instead."""
    parameters = dict(model.named_parameters())
    before = {name: parameters[name].data for name in tensors}
    for name, tensor in tensors.items():  # replaced, never written to: it may be a mapped file
        parameters[name].data = tensor.to(before[name].device)
    try:
        yield
    finally:
        for name, tensor in before.items():
            parameters[name].data = tensor


@contextmanager
def _full_float32() -> Iterator[None]:
    """TF32 off, for matrix products and convolutions."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
