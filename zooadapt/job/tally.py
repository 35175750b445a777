"""The figures of a run, added up as its models end."""

from dataclasses import asdict, dataclass, field

from zooadapt.mirror.run_files import EventLog
from zooadapt.types import ModelSummary, Row


@dataclass
class Tally:
    """The figures of a run. Only what the end of the run needs is held in memory."""

    events: EventLog
    """The log that gets an event for each model."""
    new: int = 0
    """The number of variants that were made."""
    failures: list[Row] = field(default_factory=list)
    """The variants that weren't made, as rows of failures.parquet without run and attempts."""
    models: int = 0
    """The number of models that have ended."""
    bytes_read: int = 0
    bytes_written: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds by stage, summed over all workers."""

    def add(self, summary: ModelSummary) -> None:
        """Count a model that has ended."""
        self.models += 1
        self.new += len(summary.made)
        self.bytes_read += summary.bytes_read
        self.bytes_written += summary.bytes_written
        for stage, seconds in summary.seconds.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds
        model = {"zoo": summary.entry.zoo, "model": summary.entry.name}
        self.failures += [{**model, **asdict(failure)} for failure in summary.failures]
        self.events.add(summary)
