"""The runs that a mirror has seen, from the summaries that they left in it."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zooadapt.layout import reason
from zooadapt.store import Store

STAGES = ("fetch", "adapt", "publish", "validate")

_SUMMARY = re.compile(r"runs/(\d{8}T\d{6}Z-\w+)/summary\.json")
_MOST = 365
"""Runs that are read: those of a year of nights."""

_log = logging.getLogger("zooadapt")


@dataclass(frozen=True)
class Run:
    """A run that came to its end."""

    run_id: str
    """Begins with the time at which it began, in UTC."""
    models: int
    """Worked on."""
    new: int
    """Variants that were made."""
    unsupported: int
    failed: int
    """Of what was asked for, as `unsupported`, earlier runs included."""
    bytes_read: int
    bytes_written: int
    seconds: float
    """From its beginning to its end."""
    stages: dict[str, float]
    """Seconds by stage, of all workers together."""

    @property
    def began(self) -> str:
        """When, to the minute, such as ``2026-11-24 16:20``."""
        day, clock = self.run_id[:8], self.run_id[9:13]
        return f"{day[:4]}-{day[4:6]}-{day[6:]} {clock[:2]}:{clock[2:]}"


def read(store: Store) -> list[Run]:
    """The runs, the latest first. One whose summary can't be understood is named and left out."""
    found = {key: match[1] for key in store.list("runs") if (match := _SUMMARY.fullmatch(key))}
    runs = []
    for key, data in store.read_many([*found][-_MOST:]).items():
        try:
            runs.append(_run(found[key], json.loads(data)))
        except (ValueError, TypeError, KeyError, AttributeError) as cause:
            _log.warning("%s is damaged and left out (%s)", key, reason(cause))
    return sorted(runs, key=lambda run: run.run_id, reverse=True)


def _run(run_id: str, summary: dict[str, Any]) -> Run:
    counts = {name: int(summary[name]) for name in ("new", "unsupported", "failed")}
    # Early summaries lack the others.
    sums = {name: int(summary.get(name, 0)) for name in ("models", "bytes_read", "bytes_written")}
    spent = summary.get("stages", {})
    stages = {stage: float(spent[stage]) for stage in STAGES if stage in spent}
    return Run(run_id=run_id, **counts, **sums, seconds=float(summary["seconds"]), stages=stages)


def together(runs: Sequence[Run]) -> dict[str, float]:
    """Seconds by stage of all the runs, each of STAGES."""
    return {stage: sum(run.stages.get(stage, 0.0) for run in runs) for stage in STAGES}
