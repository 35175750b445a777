"""The runs of a mirror, as text for people."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from zooadapt.mirror.runs import Seen
from zooadapt.report.failures import failure_table
from zooadapt.report.tables import aligned
from zooadapt.report.text import counted, duration, size
from zooadapt.types import Row


def lines(found: pd.DataFrame) -> str:
    """A line for each run of the table of `mirror.runs_table`. Empty columns are left out."""
    rows = [_shown(row) for row in found.to_dict("records")]
    columns = {title: [row[title] for row in rows] for title in rows[0]} if rows else {}
    return aligned({title: cells for title, cells in columns.items() if any(cells)})


def _shown(row: Mapping[Any, Any]) -> dict[str, str]:
    def cell(name: str, form: Callable[[Any], str] = str) -> str:
        return "" if pd.isna(row[name]) else form(row[name])

    at_work = row["ended"] == "running"
    models, new = cell("models"), cell("new")
    if models and row["left"]:
        models += f" of {row['models'] + row['left'] + row['postponed']}"
    if new and at_work:
        new += f" of {row['due']}"
    return {
        "run_id": row["run_id"],
        "began": _minute(row["began"]),
        "took": cell("seconds", duration),
        "ended": row["ended"],
        "models": models,
        "new": new,
        "failed": cell("failed"),
        "unsupported": cell("unsupported"),
        "postponed": cell("postponed"),
        "read": cell("bytes_read", size),
        "written": cell("bytes_written", size),
        "rate": cell("bytes_per_second", lambda rate: f"{size(rate)}/s") if at_work else "",
        "time left": cell("seconds_left", duration),
        "last sign": cell("silent", lambda seconds: f"{duration(seconds)} ago"),
        "zooadapt": cell("zooadapt_version"),
    }


def _minute(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M}"


def all_of(seen: Seen, row: Mapping[Any, Any], events: Sequence[Row]) -> str:
    """All that is known of one run. `row` is its row of the table, `events` are its events."""
    shown = {title: text for title, text in _shown(row).items() if text}
    if seen.last_model:
        shown["last model"] = f"{seen.last_model:%Y-%m-%d %H:%M:%S}"
    if seen.run:
        shown |= {stage: f"{duration(spent)} of all workers" for stage, spent in
                  seen.run.stages.items()}  # fmt: skip
        if seen.run.down:
            shown["out of reach"] = seen.run.down
    given = {name: value for name, value in seen.options.items() if value not in (None, [], False)}
    parts = [_facts(shown), "options:\n" + _facts({f"  {k}": v for k, v in given.items()})]
    failures = [
        {"model": event["entry"]["name"], **failure}
        for event in events
        for failure in event["failures"]
    ]
    if failures:
        parts.append(f"{counted(len(failures), 'failure')}:\n{failure_table(failures)}")
    return "\n\n".join(parts)


def _facts(facts: Mapping[str, Any]) -> str:
    width = max([0, *map(len, facts)])
    return "\n".join(f"{name:<{width}}  {_listed(value)}" for name, value in facts.items())


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
