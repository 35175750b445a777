"""The files that a run leaves in ``runs/<run_id>/``: how they are written and read.

- ``config.json``: the run's options with defaults filled in, without secrets; written at the start;
- ``heartbeat.json``: the figures so far; written every minute, as a sign of life;
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

_FILE = re.compile(
    r"runs/(\d{8}T\d{6}Z-\w+)/(config\.json|heartbeat\.json|events\.jsonl|summary\.json)"
)
_SUMMARY = re.compile(r"runs/(\d{8}T\d{6}Z-\w+)/summary\.json")
_MOST = 365
"""The largest number of runs that are read: one a night for a year."""

HEARTBEAT = "heartbeat.json"
_ALIVE = 300.0
"""Seconds after its last sign of life until a run counts as killed; it leaves one every minute."""

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

    @property
    def began(self) -> str:
        """The start time in UTC to the minute, such as ``2026-11-24 16:20``."""
        return f"{_began(self.run_id):%Y-%m-%d %H:%M}"


@dataclass(frozen=True)
class Seen:
    """A run as its files show it, however it ended."""

    run_id: str
    ended: str
    """``done``; ``time up`` (--max-hours is over); ``outage`` (models were left because a source or
    the store was out of reach); ``stopped`` by a signal or an error;
    ``running``, with a sign of life in the last minutes; ``killed``, without; ``no end`` (it left
    no sign of life at all); or ``damaged`` (its files can't be understood)."""
    zooadapt_version: str | None
    """None where the run's files don't state it."""
    run: Run | None
    """The run's figures; None where they aren't known. Those of a stopped run come from its events:
    `unsupported` and `failed` then leave out earlier runs."""

    @property
    def began(self) -> datetime:
        """The start time in UTC."""
        return _began(self.run_id)


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


def write_heartbeat(store: Store, run_id: str, beat: int, figures: Mapping[str, Any]) -> None:
    """Write a run's ``heartbeat.json``: its figures so far, and how many such there were."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    content = json.dumps({"time": now, "beat": beat, **figures}, indent=2)
    store.write(f"runs/{run_id}/{HEARTBEAT}", [content.encode()])


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
            runs.append(_run(found[key], json.loads(data)))
        except (ValueError, TypeError, KeyError, AttributeError) as cause:
            _log.warning("%s is damaged and left out (%s)", key, reason(cause))
    return sorted(runs, key=lambda run: run.run_id, reverse=True)


def _run(run_id: str, summary: dict[str, Any]) -> Run:
    counts = {name: int(summary[name]) for name in ("new", "unsupported", "failed")}
    # The summaries of early releases lack the other figures.
    sums = {name: int(summary.get(name, 0)) for name in ("models", "bytes_read", "bytes_written")}
    spent = summary.get("stages", {})
    stages = {stage: float(spent[stage]) for stage in STAGES if stage in spent}
    late = {name: int(summary.get(name, 0)) for name in ("left", "postponed")}
    took = float(summary["seconds"])
    down = str(summary.get("down", ""))
    return Run(run_id=run_id, **counts, **sums, seconds=took, stages=stages, **late, down=down)


def _began(run_id: str) -> datetime:
    return datetime.strptime(run_id[:16], "%Y%m%dT%H%M%S%z")


def seen(store: Store, most: int) -> list[Seen]:
    """The latest runs, at most `most`, the latest first; runs without a summary too."""
    files: dict[str, set[str]] = {}
    for key in store.list("runs"):
        if match := _FILE.fullmatch(key):
            files.setdefault(match[1], set()).add(key)
    latest = sorted(files, reverse=True)[:most]
    wanted = [key for run_id in latest for key in files[run_id] if _is_read(key, files[run_id])]
    content = store.read_many(sorted(wanted))
    return [_seen(run_id, content) for run_id in latest]


def _is_read(key: str, files: set[str]) -> bool:
    """Whether the file `key` is read: events only where there is no summary, as they are long."""
    return not key.endswith(".jsonl") or key.replace("events.jsonl", "summary.json") not in files


def _seen(run_id: str, content: dict[str, bytes]) -> Seen:
    files = ("config.json", "summary.json", "events.jsonl", HEARTBEAT)
    options, summary, events, beat = (content.get(f"runs/{run_id}/{name}") for name in files)
    try:
        version = json.loads(options or b"{}").get("zooadapt_version")
        if summary is not None:
            run = _run(run_id, json.loads(summary))
            ended = "outage" if run.down else "time up" if run.left else "done"
            return Seen(run_id, ended, version, run)
        if events is not None:
            return Seen(run_id, "stopped", version, _from_events(run_id, events))
        if beat is not None:
            return _alive(run_id, version, json.loads(beat))
        return Seen(run_id, "no end", version, None)
    except (ValueError, TypeError, KeyError, AttributeError) as cause:
        _log.warning("runs/%s is damaged and shown without figures (%s)", run_id, reason(cause))
        return Seen(run_id, "damaged", None, None)


def _alive(run_id: str, version: str | None, beat: dict[str, Any]) -> Seen:
    """A run that has no end yet, from its last sign of life."""
    when = datetime.fromisoformat(beat["time"])
    silent = (datetime.now(UTC) - when).total_seconds()
    names = ("models", "made", "failed", "bytes_read", "bytes_written", "left", "postponed")
    models, new, failed, read_, written, left, postponed = (int(beat[name]) for name in names)
    seconds = (when - _began(run_id)).total_seconds()
    run = Run(run_id, models, new, 0, failed, read_, written, seconds, {}, left, postponed)
    return Seen(run_id, "running" if silent < _ALIVE else "killed", version, run)


def _from_events(run_id: str, events: bytes) -> Run:
    """The figures of a stopped run, from the events of the models that it was done with."""
    run = Run(run_id, 0, 0, 0, 0, 0, 0, 0.0, {})
    for line in events.splitlines():
        event = json.loads(line)
        statuses = [failure["status"] for failure in event["failures"]]
        spent = {s: run.stages.get(s, 0.0) + event["seconds"].get(s, 0.0) for s in STAGES}
        seconds = run.seconds
        if "time" in event:
            seconds = (datetime.fromisoformat(event["time"]) - _began(run_id)).total_seconds()
        run = replace(
            run,
            models=run.models + (event["outcome"] != "postponed"),
            postponed=run.postponed + (event["outcome"] == "postponed"),
            new=run.new + len(event["made"]),
            unsupported=run.unsupported + statuses.count("unsupported"),
            failed=run.failed + statuses.count("failed"),
            bytes_read=run.bytes_read + int(event["bytes_read"]),
            bytes_written=run.bytes_written + int(event["bytes_written"]),
            seconds=seconds,
            stages=spent,
        )
    return run


def together(runs: Sequence[Run]) -> dict[str, float]:
    """Seconds by stage, summed over the runs; has every stage of `STAGES`."""
    return {stage: sum(run.stages.get(stage, 0.0) for run in runs) for stage in STAGES}
