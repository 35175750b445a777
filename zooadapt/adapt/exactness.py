"""Whether an adapted model computes base(M·x), apart from rounding. No torch is needed."""

import math
from collections.abc import Iterable, Sequence

from zooadapt.targets import Scheme
from zooadapt.types import Stem

Matrix = Sequence[Sequence[float]]
"""M: B rows of N numbers."""


def exact(stems: Iterable[Stem], scheme: Scheme, matrix: Matrix) -> bool:
    """Whether the adapted model computes base(M·x): whether that holds for each of its stems.

    - A plain stem: always.
    - A stem that shifts the image by a constant, W(x + s): if M keeps the constant, so that each
      row of M sums to 1. For `repeat`, this holds for N = 1 and multiples of B.
    - A stem that standardises its weight and whose gain is corrected: if all rows of M have the
      same sum. Then E·M has mean 0, as E has, and loses nothing. `repeat`: the same N as above.
    - Any stem, if M is the identity.
    """
    return _is_identity(matrix) or all(_exact(stem, scheme, matrix) for stem in stems)


def keeper(stems: Iterable[Stem], base: int, chans: int) -> str | None:
    """A scheme that keeps the function of such stems for any `chans` channels; None for none.

    It follows from `exact`: all rows of `mean` sum to 1, and those of `preserve` have the same sum
    for one channel and for multiples of the `base` channels.
    """
    changing = [stem for stem in stems if stem.use != "plain"]
    if all(stem.use == "shift" for stem in changing):
        return "mean"
    even = chans == 1 or chans % base == 0
    return "preserve" if even and all(stem.gain for stem in changing) else None


def _exact(stem: Stem, scheme: Scheme, matrix: Matrix) -> bool:
    sums = [sum(row) for row in matrix]
    if stem.use == "plain":
        return True
    if stem.use == "shift":
        return all(_close(each, 1) for each in sums)
    even = all(_close(each, sums[0]) for each in sums)
    return stem.gain is not None and scheme.corrects_gain and even


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-8)


def _is_identity(matrix: Matrix) -> bool:
    count = range(len(matrix))
    return [[*row] for row in matrix] == [[float(k == c) for c in count] for k in count]
