"""The metrics of a run. Prometheus reads them at the metrics port of every Ray node.

Ray adds ``ray_`` before every name, and ``_total`` after the names of counters.
"""

from collections import Counter as Tally
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from zooadapt.cluster.executor import Task
from zooadapt.types import ModelSummary


class Metrics:
    """The counters and the gauge of a run. The driver sets them from what the workers report."""

    def __init__(self) -> None:
        self._models = Counter("zooadapt_models", "Models that have ended.")
        self._variants = Counter(
            "zooadapt_variants",
            "Variants that have ended: made, unsupported or failed, and the stage that failed.",
            ("outcome", "stage"),
        )
        self._bytes = Counter(
            "zooadapt_bytes", "Bytes of checkpoints read and of variants written.", ("direction",)
        )
        self._seconds = Counter(
            "zooadapt_seconds", "Seconds that all workers spent on models that ended.", ("stage",)
        )
        self._retries = Counter(
            "zooadapt_retries", "Times that a model's process or node ended before the model did."
        )
        self._in_flight = Gauge("zooadapt_in_flight", "Batches in progress.", ("stage",))
        self._retried = 0
        """The retries that were counted so far."""

    def ended(self, summary: ModelSummary) -> None:
        """Count a model that has ended."""
        self._models.inc()
        outcomes: Tally[tuple[str, str]] = Tally()
        outcomes.update((failure.status, failure.stage) for failure in summary.failures)
        outcomes["made", ""] = len(summary.made)
        for (outcome, stage), count in outcomes.items():
            if count:
                self._variants.inc(count, {"outcome": outcome, "stage": stage})
        directions = {"read": summary.bytes_read, "written": summary.bytes_written}
        for direction, count in directions.items():
            if count:
                self._bytes.inc(count, {"direction": direction})
        for stage, seconds in summary.seconds.items():
            if seconds > 0:
                self._seconds.inc(seconds, {"stage": stage})

    def progressed(self, running: Mapping[Task, int], retries: int) -> None:
        """Set the batches that run now, by task, and how often a model was tried again so far."""
        for stage, count in running.items():
            self._in_flight.set(count, {"stage": stage})
        if retries > self._retried:
            self._retries.inc(retries - self._retried)
            self._retried = retries
