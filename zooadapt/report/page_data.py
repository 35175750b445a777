"""The data of the page's two long tables: all variants, and which model has which variants.

A page holds its data as columns, and each distinct text once, so that thousands of rows are small.
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
from zooadapt.types import Row

UNKNOWN = "unknown"
"""How a model without a stated licence is listed, as ``--license`` spells it."""

_TEXTS = ("zoo", "model", "architecture", "scheme", "weights_dtype", "proof")
_NUMBERS = ("in_chans", "params", "bytes", "input_height", "input_width", "equivalent")
_FIGURES = ("equivalence_error", "control_error")
COLUMNS = (*_TEXTS, *_NUMBERS, *_FIGURES, "bands", "license", "changed", "created_at")
"""The columns of the manifest that a page needs: less than half of the file."""


def embedded(url: str, rows: Sequence[Row], failed: Sequence[Row]) -> dict[str, Any]:
    """The mirror's URL and both tables, by column, as JSON without NaN and infinity."""
    return {
        "mirror": url,
        "variants": {
            **{name: _text(row[name] for row in rows) for name in _TEXTS},
            **{name: [int(row[name]) for row in rows] for name in _NUMBERS},
            **{name: [_figure(row[name]) for row in rows] for name in _FIGURES},
            "bands": _text(short(row["bands"]) for row in rows),
            "license": _text(row["license"] or UNKNOWN for row in rows),
            "changed": _text(row["changed"] or "" for row in rows),
        },
        "failures": {
            **{name: _text(row[name] for row in failed) for name in ("zoo", "model", "scheme")},
            "in_chans": [row["in_chans"] for row in failed],
            "bands": _text(short(row["bands"]) for row in failed),
            "status": _text(row["status"] for row in failed),
            "reason": _text(f"{row['stage']}: {redact(row['error'])}" for row in failed),
        },
    }


def _text(values: Iterable[str]) -> dict[str, list[Any]]:
    """A text column: its distinct values, and for each row the number of its value."""
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(value, len(numbers)) for value in values]
    return {"values": list(numbers), "codes": codes}


def _figure(value: float) -> float | str:
    """The value with three digits; as text if it isn't finite, because JSON has no such number."""
    return float(f"{value:.3g}") if math.isfinite(value) else str(value)


def short(names: str) -> str:
    """The preset that has just these comma-joined bands, else `names`: both fit ``--bands``."""
    return _sensors().get(names, names)


@cache
def _sensors() -> dict[str, str]:
    """The names of presets by their comma-joined bands, without presets of common bands only."""
    found = {bands.preset(name).names: name for name in bands.presets()}
    return {",".join(names): name for names, name in found.items() if {*names} - {*bands.COMMON}}


@dataclass(frozen=True)
class Coverage:
    """What became of all models for one set of channels and one scheme."""

    in_chans: int
    bands: str
    """The bands as `short` gives them; "" where channels are only counted."""
    scheme: str
    usable: int
    """Variants in the mirror."""
    unsupported: int
    failed: int
    removed: int = 0
    """Variants that were taken down."""

    @property
    def total(self) -> int:
        """Variants that were asked for."""
        return self.usable + self.unsupported + self.failed + self.removed


def coverage(rows: Iterable[Row], failures: Iterable[Row]) -> list[Coverage]:
    """The coverage of each set of channels and scheme, the fewest channels first."""
    found: dict[tuple[int, str, str], Counter[str]] = {}
    outcomes = chain(((row, "usable") for row in rows), ((row, row["status"]) for row in failures))
    for row, status in outcomes:
        target = row["in_chans"], short(row["bands"]), row["scheme"]
        found.setdefault(target, Counter())[status] += 1
    return [
        Coverage(*target, *(counts[of] for of in ("usable", "unsupported", "failed", "removed")))
        for target, counts in sorted(found.items())
    ]
