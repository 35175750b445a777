"""Whether the figures of a proof do for a variant. No torch is needed."""

from collections.abc import Sequence
from dataclasses import replace

from zooadapt.adapt.exactness import Matrix, exact, keeper
from zooadapt.errors import ValidationError
from zooadapt.targets import Scheme
from zooadapt.types import ProofResult, Stem


def check(
    result: ProofResult, stems: Sequence[Stem], scheme: Scheme, matrix: Matrix
) -> ProofResult:
    """The result with the reason why the function is another one, where it is.

    A variant that wasn't run passes. Raises ValidationError if the variant should compute base(M·x)
    but doesn't.
    """
    if result.proof == "none":
        return result
    if not result.equivalent and exact(stems, scheme, matrix):
        raise ValidationError(
            f"the variant doesn't compute base(M·x): error {result.equivalence_error:.2g}, "
            f"control {result.control_error:.2g} ({result.proof})"
        )
    if result.equivalent:
        return result
    shifts = any(stem.use == "shift" for stem in stems)
    does = "shifts every pixel" if shifts else "standardises its weight"
    kept = keeper(stems, len(matrix), len(matrix[0]))
    keeps = f"the scheme {kept} keeps the function" if kept else "no scheme keeps the function"
    return replace(result, changed=f"the stem {does}; {keeps} for these channels")


def said(result: ProofResult) -> str:
    """What the proof of a variant has shown, as it goes on after its name."""
    if result.proof == "none":
        return "not proved"
    if result.equivalent:
        error = f"{result.equivalence_error:.1e}" if result.equivalence_error else "0"
        return f"proved with error {error}"
    why = result.changed or "the stem standardises its weight, or shifts every pixel"
    return f"with another function than the original's, by {result.equivalence_error:.1e}: {why}"
