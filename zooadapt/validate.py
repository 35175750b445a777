"""The forward pass and the proof: a published variant must compute base(M·x).

The proof of a variant, for a batch x of two different seeded images, in float32, eval mode and
with TF32 off, where b = base(M·x):

    equivalence_error = max|adapted(x) - b| / max|b₀ - b₁|

The divisor is how far the image moves the output. `control_error` is the same figure for a stem
known to be wrong (its image channels rolled; the sign flipped where that changes nothing). The
variant is `equivalent` if its error is at most TOLERANCE and the control at least 100 times that.
Where the control is smaller, the model's outputs can't tell a right stem from a wrong one, and the
outputs of the stem modules are compared instead.

A stem stored in half precision is W·M rounded once, which moves the output by more than some wrong
stems do (measured over 27 architectures with random weights: 1e-4 to 0.5 for both dtypes). So
there the tolerance is asked of W·M before the rounding, and of the stored stem that it is W·M
rounded, bit for bit; `equivalence_error` is that of the stored stem all the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zooadapt import stems as stem_tools
from zooadapt.errors import ValidationError
from zooadapt.records import Proof, ProofResult, Stem
from zooadapt.schemes import mix_images

TOLERANCE = 1e-4
"""Largest error of an equivalent variant: the rounding of a float32 forward pass, for which 8e-7 to
2e-5 was measured."""

_LEAST_CONTROL = 100 * TOLERANCE
_SEED = 20240117

Outputs = list[Tensor]
"""Float tensors, batch first: (2, …) each."""


def prove(
    variant: nn.Module,
    base: nn.Module,
    stems: Sequence[Stem],
    matrix: Tensor,
    unrounded: Mapping[str, Tensor],
    input_size: tuple[int, int],
    device: torch.device,
) -> ProofResult:
    """Run `variant` (N channels) and `base` (B channels) on `device` and compare.

    `matrix` is M (B, N); `unrounded` are the stems' tensors for it in float32 or wider;
    `input_size` is (height, width) in pixels. Both models are left on the device in float32.

    Raises ValidationError where a stored stem isn't the unrounded one, rounded; where the outputs
    differ in number or shape, or aren't finite; and where a stem isn't called.
    """
    rounded = _rounded(variant, unrounded)
    variant, base = variant.float().to(device), base.float().to(device)
    images = seeded_images(matrix.shape[1], input_size).to(device)
    with torch.inference_mode(), _full_float32():
        wanted = _run(base, mix_images(images, matrix), stems)
        got = exact = _run(variant, images, stems)
        _check_outputs(got.final, wanted.final)
        if rounded:
            with _replaced(variant, {name: unrounded[name].float() for name in rounded}):
                exact = _run(variant, images, stems)
        with _replaced(variant, _wrong(variant, stems, matrix.shape[1])):
            wrong = _run(variant, images, stems)
    return _judge(got, exact, wrong, wanted)


def prove_stems(
    variant: nn.Module,
    base: nn.Module,
    stems: Sequence[Stem],
    matrix: Tensor,
    input_size: tuple[int, int],
) -> ProofResult:
    """The same for the outputs of float32 stems alone: the passes end with the last stem.

    What lies behind the stems isn't run and may be on the meta device.
    """
    images = seeded_images(matrix.shape[1], input_size)
    with torch.inference_mode(), _full_float32():
        wanted = _run_to_stems(base, mix_images(images, matrix), stems)
        got = _run_to_stems(variant, images, stems)
        with _replaced(variant, _wrong(variant, stems, matrix.shape[1])):
            wrong = _run_to_stems(variant, images, stems)
    return _judge(got, got, wrong, wanted)


def check(result: ProofResult, exact: bool) -> None:
    """Raise ValidationError if the variant should compute base(M·x) exactly and doesn't."""
    if exact and not result.equivalent:
        raise ValidationError(
            f"the variant doesn't compute base(M·x): error {result.equivalence_error:.2g}, "
            f"control {result.control_error:.2g} ({result.proof})"
        )


def _rounded(variant: nn.Module, unrounded: Mapping[str, Tensor]) -> list[str]:
    """The names of the stems' tensors that are stored in half precision."""
    state = variant.state_dict()
    for name, tensor in unrounded.items():
        if not torch.equal(state[name], tensor.to(state[name])):
            raise ValidationError(f"{name} isn't the source's stem contracted with the matrix")
    return [name for name in unrounded if state[name].dtype in (torch.float16, torch.bfloat16)]


def seeded_images(chans: int, size: tuple[int, int]) -> Tensor:
    """Two different images (2, chans, height, width), the same on every machine."""
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(2, chans, *size, generator=generator)


def best_device() -> torch.device:
    """The GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What the manifest's `checked_on` says: the GPU's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@dataclass(frozen=True)
class _Pass:
    """What one forward pass gave."""

    final: Outputs
    stems: Outputs
    """The outputs of the stem modules, in the order of the stems."""


def _run(model: nn.Module, images: Tensor, stems: Sequence[Stem]) -> _Pass:
    with _listening(model, stems) as heard:
        final = list(_tensors(model(images)))
    return _Pass(final, _spoken(heard, stems))


class _AllSpoke(Exception):
    """Ends a forward pass when its last stem has spoken."""


def _run_to_stems(model: nn.Module, images: Tensor, stems: Sequence[Stem]) -> _Pass:
    with _listening(model, stems, stop=True) as heard, suppress(_AllSpoke):
        model(images)
    return _Pass([], _spoken(heard, stems))


@contextmanager
def _listening(
    model: nn.Module, stems: Sequence[Stem], stop: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Within the block, collect the outputs of the stem modules under their names."""
    modules = {stem.module for stem in stems}
    heard: dict[str, Tensor] = {}

    def listener(name: str) -> Callable[..., None]:
        def listen(module: nn.Module, arguments: Any, output: Tensor) -> None:
            heard[name] = output
            if stop and heard.keys() == modules:
                raise _AllSpoke

        return listen

    hooks = [
        model.get_submodule(name).register_forward_hook(listener(name)) for name in sorted(modules)
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _spoken(heard: Mapping[str, Tensor], stems: Sequence[Stem]) -> Outputs:
    silent = [stem.module for stem in stems if stem.module not in heard]
    if silent:
        raise ValidationError(f"the forward pass never calls {silent[0]}, which reads the image")
    return [heard[stem.module] for stem in stems]


def _tensors(output: Any) -> Iterator[Tensor]:
    """The float tensors of a model's output, however nested."""
    if isinstance(output, Tensor):
        yield output.float()
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)


def _check_outputs(got: Outputs, wanted: Outputs) -> None:
    shapes, expected = [tuple(t.shape) for t in got], [tuple(t.shape) for t in wanted]
    if not got or shapes != expected:
        raise ValidationError(f"the output has shapes {shapes} where the base's has {expected}")
    if not all(bool(tensor.isfinite().all()) for tensor in got):
        raise ValidationError("the output has NaN or infinite values")


def _judge(got: _Pass, exact: _Pass, wrong: _Pass, wanted: _Pass) -> ProofResult:
    """`exact` is the pass whose error must be within the tolerance."""
    tells = got.final and distance(wrong.final, wanted.final) >= _LEAST_CONTROL
    proof: Proof = "forward" if tells else "stem"
    control = float(_distances(wrong, wanted, proof).min())
    within = float(_distances(exact, wanted, proof).max()) <= TOLERANCE
    return ProofResult(
        equivalence_error=float(_distances(got, wanted, proof).max()),
        control_error=control,
        equivalent=within and control >= _LEAST_CONTROL,
        proof=proof,
    )


def _distances(got: _Pass, wanted: _Pass, proof: Proof) -> Tensor:
    """Of the outputs together, or of each stem; as a tensor, whose extremes heed NaN."""
    pairs = [(got.final, wanted.final)]
    if proof == "stem":
        pairs = [([g], [w]) for g, w in zip(got.stems, wanted.stems, strict=True)]
    return torch.tensor([distance(g, w) for g, w in pairs], dtype=torch.float64)


def distance(got: Outputs, wanted: Outputs) -> float:
    """max|got - wanted| in units of max|wanted₀ - wanted₁|, the effect of another image."""
    moved = max(float((b[0] - b[1]).abs().max()) for b in wanted)
    apart = max(float((a - b).abs().max()) for a, b in zip(got, wanted, strict=True))
    return apart / moved if moved > 0 else float("nan")


def _wrong(model: nn.Module, stems: Sequence[Stem], chans: int) -> dict[str, Tensor]:
    """The model's stems as they are known to be wrong."""
    parameters = dict(model.named_parameters())
    return {stem.name: stem_tools.roll(parameters[stem.name], stem, chans) for stem in stems}


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
