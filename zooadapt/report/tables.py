"""Rows of the manifest for people to read, and as JSON for their scripts."""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from zooadapt.errors import UsageError
from zooadapt.proof import verdict
from zooadapt.report.text import painted, size
from zooadapt.types import ProofResult

_FORMATS: dict[str, Callable[[Any], str]] = {
    "bytes": size,
    "source_bytes": size,
    "params": lambda count: f"{count / 1e6:.3g} M",
    "macs": lambda count: f"{count / 1e9:.3g} G",
    "activations": lambda count: f"{count / 1e6:.3g} M",
    "equivalence_error": lambda error: f"{error:.1e}",
    "control_error": lambda error: f"{error:.2g}",
    "license": lambda name: name or "unknown",
    "created_at": lambda when: f"{when:%Y-%m-%d %H:%M}",
}
_ABSENT = {"license": "unknown", "input_mean": "not stated", "input_std": "not stated"}
"""What a cell without a value says; "" in all other columns."""


def selected(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows with these columns only. Raises UsageError for a column that isn't there."""
    unknown = [name for name in columns if name not in rows]
    if unknown or not columns:
        known = ", ".join(rows.columns)
        raise UsageError(f"there is no column {', '.join(unknown)}; choose from {known}")
    return rows[list(columns)]


def sorted_by(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows sorted by a column; with "-" before it, the largest first. Raises UsageError."""
    name = column.removeprefix("-")
    selected(rows, [name])
    return rows.sort_values(name, ascending=not column.startswith("-"), kind="stable")


def as_json(rows: pd.DataFrame) -> str:
    """The rows as a JSON list of objects, with times in ISO 8601."""
    return str(rows.to_json(orient="records", date_format="iso", indent=1))


def table(rows: pd.DataFrame) -> str:
    """The rows as text, in aligned columns under their names. Empty columns are left out."""
    columns = {name: [_cell(name, value) for value in rows[name]] for name in rows.columns}
    return aligned({name: cells for name, cells in columns.items() if any(cells) or not cells})


_COLOURS = {
    "failed": "red", "killed": "red", "outage": "red", "False": "yellow", "stopped": "yellow",
    "time up": "yellow", "unsupported": "yellow", "removed": "yellow", "running": "cyan",
    "done": "green",
}  # fmt: skip
"""The colours of cells on a terminal."""
_NARROWEST = 4
"""The fewest characters to which a column is cut, so that a table fits a terminal."""


def aligned(columns: Mapping[str, Sequence[str]]) -> str:
    """Columns of text, aligned under their names.

    On a terminal the widest cells are cut, so that no line is wrapped, and states have a colour.
    """
    widths = [max(len(cell) for cell in [name, *cells]) for name, cells in columns.items()]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - 2 * (len(widths) - 1)
        while widths and sum(widths) > room and max(widths) > _NARROWEST:
            widths[widths.index(max(widths))] -= 1
    padded = [
        [_fitted(name, width), *(_painted(_fitted(cell, width)) for cell in cells)]
        for (name, cells), width in zip(columns.items(), widths, strict=True)
    ]
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def _fitted(cell: str, width: int) -> str:
    return cell.ljust(width) if len(cell) <= width else cell[: width - 1] + "…"


def _painted(cell: str) -> str:
    colour = _COLOURS.get(cell.strip())
    return painted(cell, colour, sys.stdout) if colour else cell


def facts(rows: pd.DataFrame, names: Sequence[str]) -> str:
    """The first row as text, one line for each of the named columns."""
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {_cell(name, rows.iloc[0][name])}" for name in names)


def changes(rows: pd.DataFrame) -> list[str]:
    """A line for each variant that computes another function than its original: which, and why."""
    other = rows[~rows["equivalent"]].to_dict("records")
    return [
        f"{row['bands'] or row['in_chans']} channels under {row['scheme']}: "
        f"{verdict.said(ProofResult.of(row))}"
        for row in other
    ]


def _cell(name: str, value: Any) -> str:
    if value is None or value is pd.NA:
        return _ABSENT.get(name, "")
    if name in _FORMATS:
        return _FORMATS[name](value)
    listed = hasattr(value, "__len__") and not isinstance(value, str)
    return ", ".join(map(str, value)) if listed else str(value)
