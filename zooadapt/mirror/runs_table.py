"""A mirror's runs as a table."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from zooadapt.mirror.run_files import began
from zooadapt.mirror.runs import Seen

_FIGURES = ("models", "left", "new", "failed", "unsupported", "postponed",
            "bytes_read", "bytes_written")  # fmt: skip
_COLUMNS = (
    "run_id", "began", "seconds", "ended", *_FIGURES, "due", "bytes_per_second", "seconds_left",
    "silent", "last_model", "zooadapt_version",
)  # fmt: skip


def table(seen: Sequence[Seen]) -> pd.DataFrame:
    """A row for each run. Values that aren't known are None, or NaT."""
    rows = pd.DataFrame([_row(each) for each in seen], columns=_COLUMNS, dtype=object)
    times = {name: pd.to_datetime(rows[name], utc=True) for name in ("began", "last_model")}
    return rows.assign(**times)


def _row(seen: Seen) -> dict[str, Any]:
    run, row = seen.run, dict.fromkeys(_COLUMNS)
    row |= {"run_id": seen.run_id, "began": began(seen.run_id), "ended": seen.state}
    row |= {"silent": seen.silent, "last_model": seen.last_model}
    row |= {"seconds_left": seen.seconds_left, "zooadapt_version": seen.zooadapt_version}
    if run:
        row |= {name: getattr(run, name) for name in _FIGURES}
        row |= {"seconds": round(run.seconds, 1), "due": run.due or None}
        moved = run.bytes_read + run.bytes_written
        row |= {"bytes_per_second": round(moved / run.seconds) if run.seconds else None}
    return row
