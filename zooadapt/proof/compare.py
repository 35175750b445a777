"""The proof: a variant and its base are run, and the variant must compute base(M·x).

All passes are of one seeded image, in float32, in eval mode and with TF32 off. For each model the
base is run on y₀, which is coloured noise, and on y₁, which is grey noise. Each variant is run on
an image x for which M·x is y₀, or y₁ where all rows of M are equal. Where M can make neither, the
base is run on the M·x of a seeded x. With b = base(M·x) the proof measures

    equivalence_error = max|adapted(x) - b| / max|base(y₀) - base(y₁)|

The divisor is how far another image moves the output. The output of each stem module is compared in
the same way, in units of how far another image moves that output. The largest error counts. Where M
can make y₀, no grey image is used: it would hide channels that are swapped.

`control_error` shows that a wrong stem would have been seen. A wrong stem has its image channels
rolled by one, or its sign flipped where rolling changes nothing. For each model the base is run
with wrong stems on y₀: that shows whether the body carries the fault to the outputs. For each
variant its own stems are made wrong, and the outputs of its stem modules are compared. The smallest
error counts. The variant is `equivalent` if its error is at most TOLERANCE and the control is at
least LEAST_CONTROL, 100 times as much. If the base's outputs can't tell a right stem from a wrong
one, only the outputs of the stem modules count.

Rounding alone can move an output further than some wrong stems do. In deep models float32's
rounding moves it by up to 1e-3, and in a few by up to 0.5 (with random weights). In any model,
rounding W·M to half precision moves it by 1e-4 to 0.5. So there are two more rules:

- Every stored stem must equal the rounded W·M bit for bit, and every other tensor the base's.
- Where a variant that should be exact has an error above the tolerance, both models are run again
  in float64, with W·M unrounded. The variant is `equivalent` if that error is within the tolerance;
  `equivalence_error` stays that of the stored stem.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from zooadapt.adapt import contract, exactness
from zooadapt.errors import Unsupported, ValidationError, some
from zooadapt.proof import devices
from zooadapt.proof.passes import Image, Outputs, Pass, coloured, grey, image_for, run, run_to_stems
from zooadapt.targets import Scheme
from zooadapt.types import LEAST_CONTROL, TOLERANCE, ProofResult, Stem

Forward = Callable[[nn.Module, Tensor], Pass]
"""Runs a model on an image, (1, channels, *size), whose dtype and device it changes itself."""


class Prover:
    """Proves the variants of one base model, one after the other, on one device.

    The prover takes the base over. It moves the base to the device, turns it to float32, and shares
    the base's tensors with the variants. It keeps the base's outputs for all variants.
    """

    def __init__(
        self,
        base: nn.Module,
        stems: Sequence[Stem],
        originals: Mapping[str, Tensor],
        shape: tuple[int, ...],
        device: torch.device,
    ) -> None:
        """`originals` are the base's stem tensors by name; `shape` is its image's, (B, *size)."""
        self._stems, self._originals = stems, originals
        self._shape, self._device = shape, device
        adapted = {name for stem in stems for name in stem.tensors}
        self._body = {n: t for n, t in base.state_dict().items() if n not in adapted}
        """The tensors that every variant must have, in their stored dtypes."""
        self._base = base.float().to(device)
        self._yardstick: Yardstick | None = None
        self._is_steady = False
        """Whether the base was seen to give the same outputs for the same image."""
        self._wide: dict[str, Pass] = {}
        """The base's passes in float64 on the images that variants share, by `Image.kind`."""

    def prove(self, variant: nn.Module, scheme: Scheme, matrix: Tensor) -> ProofResult:
        """Adapt the originals again by M, (B, N), and `compare` the variant with the result."""
        adapted = contract.adapt(self._originals, self._stems, scheme, matrix)
        exact = exactness.exact(self._stems, scheme, matrix.tolist())
        unrounded = (
            contract.unrounded(self._originals, self._stems, scheme, matrix) if exact else None
        )
        return self.compare(variant, matrix, adapted, unrounded)

    def check(self, variant: nn.Module, scheme: Scheme, matrix: Tensor) -> ProofResult:
        """Compare only the stored bits; nothing is run. Raises ValidationError as `compare`."""
        wanted = contract.adapt(self._originals, self._stems, scheme, matrix)
        _check_stored(variant, wanted, self._body)
        return ProofResult(math.nan, math.nan, equivalent=False, proof="none")

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

        Raises ValidationError where a stored stem isn't the adapted one, where any other tensor
        isn't the base's, where the outputs differ in number or shape or aren't finite, and where
        the forward pass doesn't call a stem. Raises Unsupported where the base gives different
        outputs for the same image.
        """
        _check_stored(variant, adapted, self._body)
        with torch.inference_mode(), devices.full_float32():
            yardstick = self.measure()
            self._hand_over(variant)
            variant.float().to(self._device)
            image = image_for(matrix, self._shape[1:])
            got = self._forward(variant, image.x)
            wanted = yardstick.shared.get(image.kind) or self._forward(self._base, image.mixed)
            _check_outputs(got.final, wanted.final)
            wrong = _wrong(variant, self._stems, matrix.shape[1])
            with _replaced(variant, wrong):
                control = run_to_stems(variant, image.x.float().to(self._device), self._stems)
            result = yardstick.judge(got, wanted, control)
            if not result.equivalent:
                self._check_steady()
            if result.equivalent or unrounded is None or result.control_error < LEAST_CONTROL:
                return result
            within = self._error_in_float64(variant, unrounded, image, yardstick)
        return replace(result, equivalent=within <= TOLERANCE)

    def measure(self) -> "Yardstick":
        """Run the base, unless that was done before. Raises ValidationError as `compare` does."""
        if self._yardstick is None:
            with torch.inference_mode(), devices.full_float32():
                self._yardstick = Yardstick(self._base, self._stems, self._shape, self._forward)
        return self._yardstick

    def _check_steady(self) -> None:
        """Raise Unsupported if the base gives other outputs for the same image again."""
        if self._is_steady:
            return
        yardstick = self.measure()
        again = self._forward(self._base, coloured(self._shape[0], self._shape[1:]))
        error = yardstick.error(again, yardstick.shared["coloured"])
        if error > TOLERANCE:
            raise Unsupported(
                "the model gives different outputs for the same image, as one does that draws "
                "random numbers: no proof is possible"
            )
        self._is_steady = True

    def _forward(self, model: nn.Module, image: Tensor, dtype: torch.dtype = torch.float32) -> Pass:
        return run(model, image.to(self._device, dtype), self._stems)

    def _hand_over(self, variant: nn.Module) -> None:
        """Put the base's body into the variant, without a copy."""
        state = self._base.state_dict()
        body = {name: state[name] for name in self._body}
        variant.load_state_dict(body, strict=False, assign=True)

    def _error_in_float64(
        self,
        variant: nn.Module,
        unrounded: Mapping[str, Tensor],
        image: Image,
        yardstick: "Yardstick",
    ) -> float:
        """The error in float64 with the unrounded W·M; base and variant end in float32 again."""
        try:
            self._base.double()
            self._hand_over(variant)
            variant.double()
            wanted = self._wide.get(image.kind)
            wanted = wanted or self._forward(self._base, image.mixed, torch.float64)
            if image.kind != "own":
                self._wide[image.kind] = wanted
            with _replaced(variant, unrounded):
                got = self._forward(variant, image.x, torch.float64)
        finally:
            self._base.float()
            self._hand_over(variant)
            variant.float()
        return yardstick.error(got, wanted)


class Yardstick:
    """What the variants of a model are measured with: its base's passes, and their distances."""

    def __init__(
        self, base: nn.Module, stems: Sequence[Stem], shape: tuple[int, ...], forward: Forward
    ) -> None:
        """Run the base on y₀, on y₁, and with wrong stems on y₀; `shape` is (B, *size)."""
        chans, size = shape[0], shape[1:]
        y = coloured(chans, size)
        one, other = forward(base, y), forward(base, grey(chans, size))
        self.shared = {"coloured": one, "grey": other}
        """The passes on y₀ and y₁, by `Image.kind`."""
        self._moved = _apart(one.final, other.final)
        self._moved_stems = [_apart([a], [b]) for a, b in zip(one.stems, other.stems, strict=True)]
        with _replaced(base, _wrong(base, stems, chans)):
            wrong = forward(base, y)
        self._control = _ratio(_apart(wrong.final, one.final), self._moved)
        self._tells = self._control >= LEAST_CONTROL
        """Whether the base's outputs can tell a right stem from a wrong one."""

    def judge(self, got: Pass, wanted: Pass, wrong: Pass) -> ProofResult:
        """The result of a proof, from the variant's pass, the base's, and one with wrong stems."""
        error = self.error(got, wanted)
        controls = [*self._stem_errors(wrong, wanted), *[self._control] * self._tells]
        control = float(torch.tensor(controls or [math.nan]).min())  # `min` would lose NaN
        equivalent = error <= TOLERANCE and control >= LEAST_CONTROL
        return ProofResult(error, control, equivalent, "forward" if self._tells else "stem")

    def error(self, got: Pass, wanted: Pass) -> float:
        """The largest error of the outputs that count; NaN where it can't be measured."""
        errors = self._stem_errors(got, wanted)
        if self._tells:
            errors.append(_ratio(_apart(got.final, wanted.final), self._moved))
        return float(torch.tensor(errors or [math.nan]).max())

    def _stem_errors(self, got: Pass, wanted: Pass) -> list[float]:
        """The error of each stem module's output.

        A stem whose output no image moves gives NaN, or is left out where the model's outputs tell.
        """
        pairs = zip(got.stems, wanted.stems, self._moved_stems, strict=True)
        return [
            _ratio(_apart([g], [w]), moved)
            for g, w, moved in pairs
            if moved != 0 or not self._tells
        ]


def _ratio(apart: float, moved: float) -> float:
    return apart / moved if moved > 0 else math.nan


def _apart(got: Outputs, wanted: Outputs) -> float:
    """The largest difference between two passes' outputs; 0 where there are none."""
    pairs = zip(got, wanted, strict=True)
    return float(torch.tensor([0.0, *(float((g - w).abs().max()) for g, w in pairs)]).max())


def prove_stems(
    variant: nn.Module,
    base: nn.Module,
    stems: Sequence[Stem],
    matrix: Tensor,
    size: tuple[int, ...],
) -> ProofResult:
    """Compare the outputs of the stem modules only, for float32 stems and a (B, N) matrix.

    The forward passes end after the last stem, so the rest of both models can be on the meta
    device. Raises ValidationError where the forward pass doesn't call a stem.
    """

    def forward(model: nn.Module, image: Tensor) -> Pass:
        return run_to_stems(model, image.float(), stems)

    with torch.inference_mode(), devices.full_float32():
        yardstick = Yardstick(base, stems, (len(matrix), *size), forward)
        image = image_for(matrix, size)
        got = forward(variant, image.x)
        wanted = yardstick.shared.get(image.kind) or forward(base, image.mixed)
        with _replaced(variant, _wrong(variant, stems, matrix.shape[1])):
            wrong = forward(variant, image.x)
    return yardstick.judge(got, wanted, wrong)


def _check_stored(
    variant: nn.Module, adapted: Mapping[str, Tensor], body: Mapping[str, Tensor]
) -> None:
    state = variant.state_dict()
    for name, tensor in adapted.items():
        if not _same(state[name], tensor):
            raise ValidationError(f"{name} isn't the source's stem contracted with the matrix")
    wrong = [name for name, tensor in body.items() if not _same(state.get(name), tensor)]
    if wrong:
        raise ValidationError(f"{some(wrong)} differs from the source's, bit for bit")


def _same(one: Tensor | None, other: Tensor) -> bool:
    """Whether the tensors have the same dtype, shape and values."""
    if one is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)


def _check_outputs(got: Outputs, wanted: Outputs) -> None:
    shapes, expected = [tuple(t.shape) for t in got], [tuple(t.shape) for t in wanted]
    if not got or shapes != expected:
        raise ValidationError(f"the output has shapes {shapes} where the base's has {expected}")
    if not all(bool(tensor.isfinite().all()) for tensor in got):
        raise ValidationError("the output has NaN or infinite values")


def _wrong(model: nn.Module, stems: Sequence[Stem], chans: int) -> dict[str, Tensor]:
    """The stems of a control, by name: those of `model` made wrong on purpose."""
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
