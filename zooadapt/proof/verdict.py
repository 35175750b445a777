"""Whether the figures of a proof do for a variant. No torch is needed."""

from collections.abc import Sequence

from zooadapt.adapt.exactness import Matrix, exact
from zooadapt.errors import ValidationError
from zooadapt.targets import Scheme
from zooadapt.types import ProofResult, Stem


def check(result: ProofResult, stems: Sequence[Stem], scheme: Scheme, matrix: Matrix) -> None:
    """Raise ValidationError if the variant should compute base(M·x) but doesn't."""
    if not result.equivalent and exact(stems, scheme, matrix):
        raise ValidationError(
            f"the variant doesn't compute base(M·x): error {result.equivalence_error:.2g}, "
            f"control {result.control_error:.2g} ({result.proof})"
        )
