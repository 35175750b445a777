"""The files that a run leaves in ``runs/<run_id>/``: how they are written and read.

- ``config.json``: the options with defaults filled in, without secrets; written at the start;
- ``heartbeat.json``: the figures so far; written every minute, as a sign of life, and once more if
  a signal or an error ends the run;
- ``events.jsonl``: one JSON object for each model that the run is done with; written when the run
  ends, even by a signal or an error;
- ``summary.json``: the figures of the run; written only if the run completes, or its time is up.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import IO, Any

from zooadapt.errors import one_line, reason, redact
from zooadapt.stores.store import Store
from zooadapt.types import STAGES, ModelSummary

_SUMMARY = re.compile(r"runs/(\d{8}T\d{6}Z-\w+)/summary\.json")
_MOST = 365
"""The largest number of runs that are read: one a night for a year."""

_log = logging.getLogger("zooadapt")


@dataclass(frozen=True)
class Run:
    """The figures of a run."""

    run_id: str
    """Begins with the start time in UTC, such as ``20261124T162000Z``."""
    models: int
    """The number of models that the run worked on."""
    new: int
    """The number of variants that the run made."""
    unsupported: int
    """The number of variants asked for that are unsupported, as this or an earlier run found."""
    failed: int
    """The number of variants asked for that failed, in this or an earlier run."""
    bytes_read: int
    """The number of bytes read from sources."""
    bytes_written: int
    """The number of bytes written to the mirror."""
    seconds: float
    """The time from the start of the run to its end."""
    stages: dict[str, float]
    """Seconds by stage, summed over all workers."""
    left: int = 0
    """The number of models that weren't made because of an outage, or because the time was up."""
    postponed: int = 0
    """The number of models that outages kept from being made."""
    down: str = ""
    """What was out of reach, so that models were left; "" where nothing was."""
    due: int = 0
    """The number of variants that the run was to make; 0 in the summaries of zooadapt 0.1."""

    @property
    def began(self) -> str:
        """The start time in UTC to the minute, such as ``2026-11-24 16:20``."""
        return f"{began(self.run_id):%Y-%m-%d %H:%M}"


def write_options(store: Store, run_id: str, options: Mapping[str, Any]) -> None:
    """Write a run's ``config.json``. `options` must hold no secrets."""
    store.write(f"runs/{run_id}/config.json", [json.dumps(options, indent=2).encode()])


def write_summary(store: Store, run: Run, dest: str, usable: int) -> None:
    """Write a run's ``summary.json``.

    `dest` is the mirror's URL without secrets, `usable` the number of rows in the manifest.
    """
    figures = {name: value for name, value in asdict(run).items() if name != "run_id"}
    content = {"dest": dest, "usable": usable, **figures}
    store.write(f"runs/{run.run_id}/summary.json", [json.dumps(content, indent=2).encode()])


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life of a run, with its figures so far."""

    run: Run
    beat: int
    """How many signs of life the run has left, this one included."""
    last_model: str = ""
    """When the last model ended, in ISO 8601; "" where none has."""
    seconds_left: float | None = None
    """The estimated time until the run ends; None where nothing is known yet."""
    stopped: bool = False
    """Whether a signal or an error has ended the run."""


def write_heartbeat(store: Store, heartbeat: Heartbeat) -> None:
    """Write a run's ``heartbeat.json``."""
    content = asdict(heartbeat)
    run_id = content["run"].pop("run_id")
    text = json.dumps({**content.pop("run"), **content}, indent=2)
    store.write(f"runs/{run_id}/heartbeat.json", [text.encode()])


class EventLog:
    """The event log of a run: one line of JSON for each model that the run is done with."""

    def __init__(self, file: IO[bytes]) -> None:
        """`file` is an empty file that holds the lines until the run ends."""
        self._file = file

    def add(self, summary: ModelSummary) -> None:
        """Add a model's event. The secrets in its URL are left out, and so is its config."""
        url = summary.entry.url and redact(summary.entry.url)
        event = replace(summary, entry=replace(summary.entry, url=url, config=None))
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        head = {"time": now, "outcome": _outcome(summary)}
        self._file.write(json.dumps({**head, **asdict(event)}).encode() + b"\n")

    def leave(self, store: Store, run_id: str) -> None:
        """Write ``events.jsonl``. Failing to write it only logs a warning: no run depends on it."""
        try:
            self._file.seek(0)
            store.write(f"runs/{run_id}/events.jsonl", self._file)
        except Exception as error:
            _log.warning("runs/%s/events.jsonl wasn't written: %s", run_id, one_line(error))


def _outcome(summary: ModelSummary) -> str:
    """The worst outcome among a model's variants: "failed", else "unsupported", else "made".

    "postponed" where an outage kept them from being made.
    """
    if summary.outage:
        return "postponed"
    statuses = {failure.status for failure in summary.failures}
    return next((status for status in ("failed", "unsupported") if status in statuses), "made")


def read(store: Store) -> list[Run]:
    """The latest 365 runs that have a summary, the latest first.

    A run whose summary can't be understood is left out and named in the log.
    """
    found = {key: match[1] for key in store.list("runs") if (match := _SUMMARY.fullmatch(key))}
    runs = []
    for key, data in store.read_many([*found][-_MOST:]).items():
        try:
            runs.append(figures(found[key], json.loads(data)))
        except (ValueError, TypeError, KeyError, AttributeError) as cause:
            _log.warning("%s is damaged and left out (%s)", key, reason(cause))
    return sorted(runs, key=lambda run: run.run_id, reverse=True)


def figures(run_id: str, summary: Mapping[str, Any]) -> Run:
    """The figures in a ``summary.json`` or ``heartbeat.json``. Raises as damaged JSON does:
    ValueError, TypeError, KeyError or AttributeError.
    """
    counts = {name: int(summary[name]) for name in ("new", "unsupported", "failed")}
    # The summaries of early releases lack the other figures.
    sums = {name: int(summary.get(name, 0)) for name in ("models", "bytes_read", "bytes_written")}
    spent = summary.get("stages", {})
    stages = {stage: float(spent[stage]) for stage in STAGES if stage in spent}
    late = {name: int(summary.get(name, 0)) for name in ("left", "postponed", "due")}
    took = float(summary["seconds"])
    down = str(summary.get("down", ""))
    return Run(run_id=run_id, **counts, **sums, seconds=took, stages=stages, **late, down=down)


def began(run_id: str) -> datetime:
    """The start time in UTC."""
    return datetime.strptime(run_id[:16], "%Y%m%dT%H%M%S%z")


def together(runs: Sequence[Run]) -> dict[str, float]:
    """Seconds by stage, summed over the runs; has every stage of `STAGES`."""
    return {stage: sum(run.stages.get(stage, 0.0) for run in runs) for stage in STAGES}
