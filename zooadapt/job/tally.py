"""The figures of a run, added up as its models end."""

from dataclasses import asdict, dataclass, field

from zooadapt.mirror.run_files import EventLog
from zooadapt.types import ModelSummary, Row


@dataclass
class Tally:
    """The figures of a run; in memory is only what the end of the run needs."""

    events: EventLog
    """Gets an event for each model."""
    new: int = 0
    """Variants that were made."""
    failures: list[Row] = field(default_factory=list)
    """The variants that weren't made, as rows of failures.parquet without run and attempts."""
    models: int = 0
    """Models that ended."""
    bytes_read: int = 0
    bytes_written: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds by stage, of all workers together."""

    def add(self, summary: ModelSummary) -> None:
        """Count a model that ended."""
        self.models += 1
        self.new += len(summary.made)
        self.bytes_read += summary.bytes_read
        self.bytes_written += summary.bytes_written
        for stage, seconds in summary.seconds.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds
        model = {"zoo": summary.entry.zoo, "model": summary.entry.name}
        self.failures += [{**model, **asdict(failure)} for failure in summary.failures]
        self.events.add(summary)
