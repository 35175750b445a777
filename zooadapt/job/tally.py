"""The figures of a run while it is at work."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from zooadapt.mirror.run_files import EventLog, Run
from zooadapt.types import ModelSummary, Outage, Request, Row


@dataclass
class Tally:
    """The figures of a run. Only what the end of the run needs is held in memory."""

    run_id: str
    events: EventLog
    """The log that gets an event for each model."""
    requests: Sequence[Request]
    """What the run has to do."""
    new: int = 0
    """The number of variants that were made."""
    failures: list[Row] = field(default_factory=list)
    """The variants that weren't made, as rows of failures.parquet without run and attempts."""
    models: int = 0
    """The number of models that have ended, those postponed left out."""
    postponed: int = 0
    """The number of models that outages kept from being made."""
    down: Sequence[Outage] = ()
    """The sources and the store for which models were left, because they were out of reach."""
    bytes_read: int = 0
    bytes_written: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds by stage, summed over all workers."""
    last_model: str = ""
    """When the last model ended, in ISO 8601; "" where none has."""
    _began: float = field(default_factory=time.monotonic)

    def add(self, summary: ModelSummary) -> None:
        """Count a model that has ended."""
        if summary.outage:
            self.postponed += 1
        else:
            self.models += 1
        self.new += len(summary.made)
        self.bytes_read += summary.bytes_read
        self.bytes_written += summary.bytes_written
        for stage, seconds in summary.seconds.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds
        model = {"zoo": summary.entry.zoo, "model": summary.entry.name}
        self.failures += [{**model, **asdict(failure)} for failure in summary.failures]
        self.last_model = datetime.now(UTC).isoformat(timespec="seconds")
        self.events.add(summary)

    def run(self) -> Run:
        """The run's figures so far. `unsupported` and `failed` leave out earlier runs."""
        statuses = [row["status"] for row in self.failures.copy()]  # another thread adds to it
        return Run(
            run_id=self.run_id,
            models=self.models,
            new=self.new,
            unsupported=statuses.count("unsupported"),
            failed=statuses.count("failed"),
            bytes_read=self.bytes_read,
            bytes_written=self.bytes_written,
            seconds=time.monotonic() - self._began,
            stages={**self.stages},
            left=len(self.requests) - self.models - self.postponed,
            postponed=self.postponed,
            down=", ".join(outage.place for outage in self.down),
            due=sum(len(request.targets) for request in self.requests),
        )
