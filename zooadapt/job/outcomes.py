"""What became of the models of a run: counted for its closing lines, each an event of its log."""

import json
import logging
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import IO

from zooadapt.errors import one_line, redact
from zooadapt.mirror.layout import Row
from zooadapt.stores.store import Store
from zooadapt.types import ModelSummary

_log = logging.getLogger("zooadapt")


@dataclass
class Outcomes:
    """What became of the models of this run; in memory only what the end of it needs."""

    log: IO[bytes]
    """An event a model, as JSON lines."""
    made: int = 0
    """Variants."""
    failures: list[Row] = field(default_factory=list)
    models: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds, of all workers together."""

    def add(self, summary: ModelSummary) -> None:
        """One more model ended."""
        self.models += 1
        self.made += len(summary.made)
        self.bytes_read += summary.bytes_read
        self.bytes_written += summary.bytes_written
        for stage, seconds in summary.seconds.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds
        model = {"zoo": summary.entry.zoo, "model": summary.entry.name}
        self.failures += [{**model, **asdict(failure)} for failure in summary.failures]
        url = summary.entry.url and redact(summary.entry.url)
        event = replace(summary, entry=replace(summary.entry, url=url, config=None))
        head = {"time": _now(), "outcome": _outcome(summary)}
        self.log.write(json.dumps({**head, **asdict(event)}).encode() + b"\n")

    def leave_events(self, store: Store, run_id: str) -> None:
        """Write ``events.jsonl``, however the run ends. Nobody's run fails for want of it."""
        try:
            self.log.seek(0)
            store.write(f"runs/{run_id}/events.jsonl", self.log)
        except Exception as error:
            _log.warning("the run's event log wasn't written: %s", one_line(error))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _outcome(summary: ModelSummary) -> str:
    """The worst of a model's variants: failed, unsupported or made."""
    statuses = {failure.status for failure in summary.failures}
    return next((status for status in ("failed", "unsupported") if status in statuses), "made")
