"""The forward pass and the proof: a published variant must compute base(M·x).

The proof of a variant, for a batch x of two different seeded images, in float32, eval mode and
with TF32 off, where b = base(M·x):

    equivalence_error = max|adapted(x) - b| / max|b₀ - b₁|

The divisor is how far the image moves the output. `control_error` is the same figure for a stem
known to be wrong (its image channels rolled; the sign flipped where that changes nothing). The
variant is `equivalent` if its error is within the tolerance of its stem's dtype and the control is
at least 100 times the tolerance. Where the control is smaller, the model's outputs can't tell a
right stem from a wrong one, and the outputs of the stem modules are compared instead.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zooadapt import stems as stem_tools
from zooadapt.errors import ValidationError
from zooadapt.records import Proof, ProofResult, Stem
from zooadapt.schemes import mix_images

TOLERANCES = {torch.float16: 1e-3, torch.bfloat16: 1e-2}
"""Largest equivalence_error by the stem's stored dtype: W·M is rounded to it once."""
TOLERANCE = 1e-4
"""For float32 and wider: the rounding of a forward pass."""

_CONTROL = 100
_SEED = 20240117

Outputs = list[Tensor]
"""Float tensors, batch first: (2, …) each."""


def prove(
    variant: nn.Module,
    base: nn.Module,
    stems: Sequence[Stem],
    matrix: Tensor,
    input_size: tuple[int, int],
    device: torch.device,
) -> ProofResult:
    """Run `variant` (N channels) and `base` (B channels) on `device` and compare.

    `matrix` is M (B, N); `input_size` is (height, width) in pixels. Both models are left on the
    device in float32. Raises ValidationError where the outputs differ in number or shape, or
    aren't finite.
    """
    tolerance = TOLERANCES.get(variant.state_dict()[stems[0].name].dtype, TOLERANCE)
    images = seeded_images(matrix.shape[1], input_size).to(device)
    mixed = mix_images(images, matrix)
    with torch.inference_mode(), _full_float32():
        wanted = _run(base.float().to(device), mixed, stems)
        got = _run(variant.float().to(device), images, stems)
        _check_outputs(got.final, wanted.final)
        with _wrong_stems(variant, stems, matrix.shape[1]):
            wrong = _run(variant, images, stems)
    return _judge(got, wrong, wanted, tolerance)


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
    heard: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(stem.module).register_forward_hook(_listener(heard, stem.module))
        for stem in stems
    ]
    try:
        final = list(_tensors(model(images)))
    finally:
        for hook in hooks:
            hook.remove()
    return _Pass(final, [heard[stem.module] for stem in stems])


def _listener(heard: dict[str, Tensor], name: str) -> Callable[..., None]:
    def listen(module: nn.Module, arguments: Any, output: Tensor) -> None:
        heard[name] = output

    return listen


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


def _judge(got: _Pass, wrong: _Pass, wanted: _Pass, tolerance: float) -> ProofResult:
    error, control = distance(got.final, wanted.final), distance(wrong.final, wanted.final)
    proof: Proof = "forward"
    if not control >= _CONTROL * tolerance:
        pairs = zip(got.stems, wrong.stems, wanted.stems, strict=True)
        figures = [(distance([g], [b]), distance([w], [b])) for g, w, b in pairs]
        error, control = max(e for e, _ in figures), min(c for _, c in figures)
        proof = "stem"
    equivalent = error <= tolerance and control >= _CONTROL * tolerance
    return ProofResult(error, control, equivalent, proof)


def distance(got: Outputs, wanted: Outputs) -> float:
    """max|got - wanted| in units of max|wanted₀ - wanted₁|, the effect of another image."""
    moved = max(float((b[0] - b[1]).abs().max()) for b in wanted)
    apart = max(float((a - b).abs().max()) for a, b in zip(got, wanted, strict=True))
    return apart / moved if moved > 0 else float("nan")


@contextmanager
def _wrong_stems(model: nn.Module, stems: Sequence[Stem], chans: int) -> Iterator[None]:
    """Within the block the model's stems are known to be wrong."""
    parameters = dict(model.named_parameters())
    right = {stem.name: parameters[stem.name].data for stem in stems}
    for stem in stems:  # replaced, never written to: the tensor may be a mapped file
        parameters[stem.name].data = stem_tools.roll(right[stem.name], stem, chans)
    try:
        yield
    finally:
        for name, tensor in right.items():
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
