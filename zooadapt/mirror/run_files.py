"""What a run leaves in ``runs/<run_id>/``: written here, and read here again.

- ``config.json``: the options as they were resolved, without secrets; written at the start;
- ``events.jsonl``: one JSON object for each model that ended; written however the run ends;
- ``summary.json``: what the run came to; written when the run came to its end.
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

_FILE = re.compile(r"runs/(\d{8}T\d{6}Z-\w+)/(config\.json|events\.jsonl|summary\.json)")
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
    left: int = 0
    """Models that weren't begun, as the time was up."""

    @property
    def began(self) -> str:
        """When, to the minute, such as ``2026-11-24 16:20``."""
        return f"{_began(self.run_id):%Y-%m-%d %H:%M}"


@dataclass(frozen=True)
class Seen:
    """A run, however it ended."""

    run_id: str
    ended: str
    """``done``; ``time up`` by --max-hours; ``stopped`` by a signal or an error that was met; or
    ``no end``: it is at work, or was killed."""
    zooadapt_version: str | None
    """None where an early run didn't tell."""
    run: Run | None
    """What it did; of one that was stopped what its events say, without `unsupported` and `failed`
    of earlier runs; None where nothing is known."""

    @property
    def began(self) -> datetime:
        """In UTC."""
        return _began(self.run_id)


def write_options(store: Store, run_id: str, options: Mapping[str, Any]) -> None:
    """Write a run's ``config.json``. `options` must hold no secrets."""
    store.write(f"runs/{run_id}/config.json", [json.dumps(options, indent=2).encode()])


def write_summary(store: Store, run: Run, dest: str, usable: int) -> None:
    """Write a run's ``summary.json``.

    `dest` is the mirror's URL without secrets, `usable` the number of the manifest's rows.
    """
    figures = {name: value for name, value in asdict(run).items() if name != "run_id"}
    content = {"dest": dest, "usable": usable, **figures}
    store.write(f"runs/{run.run_id}/summary.json", [json.dumps(content, indent=2).encode()])


class EventLog:
    """The events of a run: one JSON line for each model that ended."""

    def __init__(self, file: IO[bytes]) -> None:
        """`file` holds the lines until the run ends."""
        self._file = file

    def add(self, summary: ModelSummary) -> None:
        """Add the event of a model that ended."""
        url = summary.entry.url and redact(summary.entry.url)
        event = replace(summary, entry=replace(summary.entry, url=url, config=None))
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        head = {"time": now, "outcome": _outcome(summary)}
        self._file.write(json.dumps({**head, **asdict(event)}).encode() + b"\n")

    def leave(self, store: Store, run_id: str) -> None:
        """Write ``events.jsonl``. A failure to write it is a warning, as no run depends on it."""
        try:
            self._file.seek(0)
            store.write(f"runs/{run_id}/events.jsonl", self._file)
        except Exception as error:
            _log.warning("the run's event log wasn't written: %s", one_line(error))


def _outcome(summary: ModelSummary) -> str:
    """The worst of a model's variants: failed, unsupported or made."""
    statuses = {failure.status for failure in summary.failures}
    return next((status for status in ("failed", "unsupported") if status in statuses), "made")


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
    left = int(summary.get("left", 0))
    took = float(summary["seconds"])
    return Run(run_id=run_id, **counts, **sums, seconds=took, stages=stages, left=left)


def _began(run_id: str) -> datetime:
    return datetime.strptime(run_id[:16], "%Y%m%dT%H%M%S%z")


def seen(store: Store, most: int) -> list[Seen]:
    """The latest runs, the last first, those without an end too."""
    files: dict[str, set[str]] = {}
    for key in store.list("runs"):
        if match := _FILE.fullmatch(key):
            files.setdefault(match[1], set()).add(key)
    latest = sorted(files, reverse=True)[:most]
    wanted = [key for run_id in latest for key in files[run_id] if _is_read(key, files[run_id])]
    content = store.read_many(sorted(wanted))
    return [_seen(run_id, content) for run_id in latest]


def _is_read(key: str, files: set[str]) -> bool:
    """Events only where there is no summary, as they are long."""
    return not key.endswith(".jsonl") or key.replace("events.jsonl", "summary.json") not in files


def _seen(run_id: str, content: dict[str, bytes]) -> Seen:
    names = [f"runs/{run_id}/{name}" for name in ("config.json", "summary.json", "events.jsonl")]
    options, summary, events = (content.get(name) for name in names)
    try:
        version = json.loads(options or b"{}").get("zooadapt_version")
        if summary is not None:
            run = _run(run_id, json.loads(summary))
            return Seen(run_id, "time up" if run.left else "done", version, run)
        if events is not None:
            return Seen(run_id, "stopped", version, _from_events(run_id, events))
        return Seen(run_id, "no end", version, None)
    except (ValueError, TypeError, KeyError, AttributeError) as cause:
        _log.warning("what run %s has left is damaged (%s)", run_id, reason(cause))
        return Seen(run_id, "damaged", None, None)


def _from_events(run_id: str, events: bytes) -> Run:
    """What the models did that ended before the run was stopped, up to the last of them."""
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
            models=run.models + 1,
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
    """Seconds by stage of all the runs, each of STAGES."""
    return {stage: sum(run.stages.get(stage, 0.0) for run in runs) for stage in STAGES}
