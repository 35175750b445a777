"""The data of the page's catalogue: the models, and what became of the variants of each.

A page holds its data as columns, and each distinct text once, so that thousands of rows are small.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from zooadapt import urls
from zooadapt.bands import short
from zooadapt.errors import redact
from zooadapt.types import Row

UNKNOWN = "unknown"
"""How a model without a stated licence is listed, as ``--license`` spells it."""

_OF_MODEL = ("input_height", "input_width", "num_classes")
_COUNTS = ("params", "bytes", "macs", "activations")
_ERRORS = ("equivalence_error", "control_error")
_TEXTS = ("weights_dtype", "proof")
COLUMNS = (
    "zoo", "model", "architecture", "license", "source_uri", *_OF_MODEL,
    "in_chans", "bands", "scheme", *_COUNTS, *_ERRORS, *_TEXTS, "equivalent", "changed",
    "created_at",
)  # fmt: skip
"""The columns of the manifest that a page needs: less than half of the file."""


def embedded(url: str, rows: Sequence[Row], failed: Sequence[Row]) -> dict[str, Any]:
    """The mirror's URL and its models, variants and failures by column, as JSON without NaN."""
    models: dict[tuple[str, str], Row] = {}
    for row in chain(rows, failed):
        models.setdefault((row["zoo"], row["model"]), row)
    places = {key: place for place, key in enumerate(models)}
    return {
        "mirror": url,
        "models": {
            **{name: _text(row[name] for row in models.values()) for name in ("zoo", "model")},
            **{name: [row.get(name) for row in models.values()] for name in _OF_MODEL},
            "architecture": _text(row.get("architecture", "") for row in models.values()),
            "license": _text(row.get("license") or UNKNOWN for row in models.values()),
            "card": [urls.card(row.get("source_uri", "")) for row in models.values()],
        },
        "variants": {
            **_outcomes(rows, places),
            **{name: [_rounded(row[name], 4) for row in rows] for name in _COUNTS},
            **{name: [_rounded(row[name], 2) for row in rows] for name in _ERRORS},
            **{name: _text(row[name] for row in rows) for name in _TEXTS},
            "equivalent": [int(row["equivalent"]) for row in rows],
            "changed": _text(row["changed"] or "" for row in rows),
        },
        "failures": {
            **_outcomes(failed, places),
            "status": _text(row["status"] for row in failed),
            "reason": _text(f"{row['stage']}: {redact(row['error'])}" for row in failed),
        },
    }


def _outcomes(rows: Sequence[Row], places: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """Which model each row is of, by its place in the list of models, and for which channels."""
    return {
        "model": [places[row["zoo"], row["model"]] for row in rows],
        "in_chans": [row["in_chans"] for row in rows],
        "bands": _text(short(row["bands"]) for row in rows),
        "scheme": _text(row["scheme"] for row in rows),
    }


def _text(values: Iterable[str]) -> dict[str, list[Any]]:
    """A text column: its distinct values, and for each row the number of its value."""
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(value, len(numbers)) for value in values]
    return {"values": list(numbers), "codes": codes}


def _rounded(value: float | None, digits: int) -> float | str | None:
    """The value with so many digits; as text if it isn't finite: JSON has no such number."""
    if value is None:
        return None
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded


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
