"""The runs of a mirror, as their files show them, however they ended."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from zooadapt.errors import RunError, UsageError, reason, some
from zooadapt.mirror import run_files
from zooadapt.mirror.run_files import Run
from zooadapt.stores.store import Store
from zooadapt.types import STAGES

_FILE = re.compile(
    r"runs/(\d{8}T\d{6}Z-\w+)/(config\.json|heartbeat\.json|events\.jsonl|summary\.json)"
)
_ALIVE = 300.0
"""Seconds after its last sign of life until a run counts as killed; it leaves one every minute."""

_log = logging.getLogger("zooadapt")


@dataclass(frozen=True)
class Seen:
    """A run as its files show it."""

    run_id: str
    state: str
    """``done``; ``time up`` (--max-hours is over); ``outage`` (models were left because a source or
    the store was out of reach); ``stopped`` by a signal or an error;
    ``running``, with a sign of life in the last minutes; ``killed``, without; ``no end`` (it left
    no sign of life at all); or ``damaged`` (its files can't be understood)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The run's options, and ``zooadapt_version``."""
    run: Run | None = None
    """The run's figures; None where they aren't known. Where the run has no summary, `unsupported`
    and `failed` count this run alone, not what earlier runs have recorded."""
    silent: float | None = None
    """Seconds since the last sign of life, by the store's clock; None where the run has ended, or
    left none."""
    last_model: datetime | None = None
    """When the last model ended; None where the run has ended, or no model has."""
    seconds_left: float | None = None
    """The estimated time until the run ends; None where the run has ended, or isn't known."""

    @property
    def zooadapt_version(self) -> str | None:
        """None where the run's files don't state it."""
        version = self.options.get("zooadapt_version")
        return None if version is None else str(version)


def latest(store: Store, most: int) -> list[Seen]:
    """The latest runs, at most `most`, the latest first."""
    files = _files(store)
    return _all_seen(
        store, {run_id: files[run_id] for run_id in sorted(files, reverse=True)[:most]}
    )


def find(store: Store, run_id: str) -> Seen:
    """The run whose id is, or begins with, `run_id`. Raises UsageError for none, or for several."""
    files = {each: keys for each, keys in _files(store).items() if each.startswith(run_id)}
    if not files:
        raise UsageError(f"the mirror has no run {run_id}; zooadapt runs lists them")
    if len(files) > 1:
        raise UsageError(f"{run_id} could be {some(sorted(files))}: give more of the run's id")
    return _all_seen(store, files)[0]


def at_work(store: Store) -> list[Seen]:
    """The runs that are at work, by their signs of life."""
    recent = {run_id: files for run_id, files in _files(store).items() if _may_run(files)}
    return [seen for seen in _all_seen(store, recent) if seen.state == "running"]


def _may_run(files: set[str]) -> bool:
    """Whether a run has left a sign of life, and no file that ends it."""
    names = {key.rpartition("/")[2] for key in files}
    return "heartbeat.json" in names and "summary.json" not in names


def events(store: Store, run_id: str) -> list[dict[str, Any]]:
    """The events of a run, one for each model that it was done with; [] where it left none.

    Lines that can't be understood are left out, and said in the log.
    """
    key, found = f"runs/{run_id}/events.jsonl", list[dict[str, Any]]()
    try:
        lines = store.read(key).splitlines()
    except FileNotFoundError:
        return []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError as cause:
            _log.warning("%s, line %d, is damaged and left out (%s)", key, number, reason(cause))
    return found


def _files(store: Store) -> dict[str, set[str]]:
    """The keys of each run's files, by the run's id."""
    found: dict[str, set[str]] = {}
    for key in store.list("runs"):
        if match := _FILE.fullmatch(key):
            found.setdefault(match[1], set()).add(key)
    return found


def _all_seen(store: Store, files: Mapping[str, set[str]]) -> list[Seen]:
    wanted = [key for keys in files.values() for key in keys if _is_read(key, keys)]
    content = store.read_many(sorted(wanted))
    return [_seen(store, run_id, content) for run_id in files]


def _is_read(key: str, keys: set[str]) -> bool:
    """Whether the file `key` is read: events, which are long, only where nothing else tells."""
    others = {key.replace("events.jsonl", name) for name in ("summary.json", "heartbeat.json")}
    return not key.endswith(".jsonl") or not others & keys


def _seen(store: Store, run_id: str, content: Mapping[str, bytes]) -> Seen:
    def of(name: str) -> Any:
        data = content.get(f"runs/{run_id}/{name}")
        return None if data is None else json.loads(data)

    try:
        options = of("config.json") or {}
        if (summary := of("summary.json")) is not None:
            run = run_files.figures(run_id, summary)
            state = "outage" if run.down else "time up" if run.left else "done"
            return Seen(run_id, state, options, run)
        if (beat := of("heartbeat.json")) is not None:
            return _without_summary(store, Seen(run_id, "stopped", options), beat)
        found = content.get(f"runs/{run_id}/events.jsonl")
        if found is not None:  # of zooadapt 0.1, which left no sign of life
            return Seen(run_id, "stopped", options, _from_events(run_id, found))
        return Seen(run_id, "no end", options)
    except (ValueError, TypeError, KeyError, AttributeError) as cause:
        _log.warning("runs/%s is damaged and shown without figures (%s)", run_id, reason(cause))
        return Seen(run_id, "damaged")


def _without_summary(store: Store, seen: Seen, beat: Mapping[str, Any]) -> Seen:
    """A run that has no summary, from its last sign of life."""
    run = run_files.figures(seen.run_id, beat)
    if beat["stopped"]:
        return replace(seen, run=run)
    try:
        silent = store.age(f"runs/{seen.run_id}/heartbeat.json").total_seconds()
    except RunError:  # this kind of store tells no times
        return replace(seen, state="no end", run=run)
    last, left = beat["last_model"], beat["seconds_left"]
    return replace(
        seen,
        state="running" if silent < _ALIVE else "killed",
        run=run,
        silent=silent,
        last_model=datetime.fromisoformat(last) if last else None,
        seconds_left=max(0.0, left - silent) if left is not None and silent < _ALIVE else None,
    )


def _from_events(run_id: str, events: bytes) -> Run:
    """The figures of a stopped run, from the events of the models that it was done with."""
    run = Run(run_id, 0, 0, 0, 0, 0, 0, 0.0, {})
    for line in events.splitlines():
        event = json.loads(line)
        statuses = [failure["status"] for failure in event["failures"]]
        spent = {s: run.stages.get(s, 0.0) + event["seconds"].get(s, 0.0) for s in STAGES}
        seconds = run.seconds
        if "time" in event:
            seconds = (
                datetime.fromisoformat(event["time"]) - run_files.began(run_id)
            ).total_seconds()
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
