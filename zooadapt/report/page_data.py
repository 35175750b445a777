"""What the page's two long tables show: the variants, and which model is there for which channels.

A page holds its data as columns, and of text each value once, so that thousands of rows are small.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

from zooadapt import bands
from zooadapt.errors import redact
from zooadapt.report import failures
from zooadapt.types import Row

UNKNOWN = "unknown"
"""The licence of a model whose source states none, as for ``--license``."""

_TEXTS = ("zoo", "model", "architecture", "scheme", "weights_dtype", "proof")
_NUMBERS = ("in_chans", "params", "bytes", "input_height", "input_width", "equivalent")
_FIGURES = ("equivalence_error", "control_error")
COLUMNS = (*_TEXTS, *_NUMBERS, *_FIGURES, "bands", "license", "created_at")
"""Of the manifest, what a page needs: less than half of its bytes."""


def embedded(url: str, rows: Sequence[Row], failed: Sequence[Row]) -> dict[str, Any]:
    """The mirror's URL and both tables as finite JSON, under the names of their columns."""
    return {
        "mirror": url,
        "variants": {
            **{name: _text(row[name] for row in rows) for name in _TEXTS},
            **{name: [int(row[name]) for row in rows] for name in _NUMBERS},
            **{name: [_figure(row[name]) for row in rows] for name in _FIGURES},
            "bands": _text(short(row["bands"]) for row in rows),
            "license": _text(row["license"] or UNKNOWN for row in rows),
        },
        "failures": {
            **{name: _text(row[name] for row in failed) for name in ("zoo", "model", "scheme")},
            "in_chans": [row["in_chans"] for row in failed],
            "bands": _text(short(row["bands"]) for row in failed),
            "status": _text(row["status"] for row in failed),
            "reason": _text(f"{row['stage']}: {redact(failures.reason(row))}" for row in failed),
        },
    }


def _text(values: Iterable[str]) -> dict[str, list[Any]]:
    """The different values, and for each row the number of its own."""
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(value, len(numbers)) for value in values]
    return {"values": list(numbers), "codes": codes}


def _figure(value: float) -> float | str:
    """Three digits; a word where it isn't finite, for which JSON has no number."""
    return float(f"{value:.3g}") if math.isfinite(value) else str(value)


def short(names: str) -> str:
    """Comma-joined names of bands, or the sensor that has just these: either fits ``--bands``."""
    return _sensors().get(names, names)


@cache
def _sensors() -> dict[str, str]:
    """The presets by their names, but for those that a plain list of names stands for too."""
    found = {bands.preset(name).names: name for name in bands.presets()}
    return {",".join(names): name for names, name in found.items() if {*names} - {*bands.COMMON}}


@dataclass(frozen=True)
class Coverage:
    """What became of all models for one set of channels."""

    in_chans: int
    bands: str
    """`short` of their names; "" where they are unnamed."""
    scheme: str
    usable: int
    """Variants in the mirror."""
    unsupported: int
    failed: int
    removed: int = 0
    """Taken down."""

    @property
    def total(self) -> int:
        """Variants that were asked for."""
        return self.usable + self.unsupported + self.failed + self.removed


def coverage(rows: Iterable[Row], failures: Iterable[Row]) -> list[Coverage]:
    """For each set of channels and scheme, the fewest channels first."""
    found: dict[tuple[int, str, str], Counter[str]] = {}
    outcomes = chain(((row, "usable") for row in rows), ((row, row["status"]) for row in failures))
    for row, status in outcomes:
        target = row["in_chans"], short(row["bands"]), row["scheme"]
        found.setdefault(target, Counter())[status] += 1
    return [
        Coverage(*target, *(counts[of] for of in ("usable", "unsupported", "failed", "removed")))
        for target, counts in sorted(found.items())
    ]
