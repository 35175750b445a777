"""The runs of a mirror as a table, one row for each run."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pandas as pd

from zooadapt.mirror.run_files import Seen
from zooadapt.report.tables import aligned
from zooadapt.report.text import size

_RUN = (
    "run_id", "began", "seconds", "ended", "models", "new", "failed", "unsupported",
    "bytes_read", "bytes_written", "left", "zooadapt_version",
)  # fmt: skip


def runs(seen: Sequence[Seen]) -> pd.DataFrame:
    """A table with a row for each run. Values that aren't known are None."""
    return pd.DataFrame([_run(each) for each in seen], columns=_RUN, dtype=object)


def _run(seen: Seen) -> list[Any]:
    names = ("models", "new", "failed", "unsupported", "bytes_read", "bytes_written")
    figures = [getattr(seen.run, name, None) for name in names]
    took = round(seen.run.seconds, 1) if seen.run else None
    left = seen.run.left if seen.run else None
    began = f"{seen.began:%Y-%m-%d %H:%M}"
    return [seen.run_id, began, took, seen.ended, *figures, left, seen.zooadapt_version]


def run_lines(found: pd.DataFrame) -> str:
    """The table of runs as text for people. Empty columns are left out."""
    cells = {name: [_known(value) for value in found[name]] for name in _RUN}
    cells["seconds"] = [_took(seconds) for seconds in cells["seconds"]]
    for name in ("bytes_read", "bytes_written"):
        cells[name] = ["" if count is None else size(count) for count in cells[name]]
    titles = {"seconds": "took", "bytes_read": "read", "bytes_written": "written",
              "zooadapt_version": "zooadapt"}  # fmt: skip
    columns = {
        titles.get(name, name): ["" if value is None else str(value) for value in values]
        for name, values in cells.items()
    }
    return aligned({title: texts for title, texts in columns.items() if any(texts)})


def _known(value: Any) -> Any:
    return None if pd.isna(value) else value


def _took(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 100 else f"{timedelta(seconds=round(seconds))}"
