"""What a run does, as Ray's own metrics: Prometheus finds them at every node's metrics port.

Ray puts ``ray_`` before the names, and ``_total`` behind those of counters.
"""

from collections import Counter as Tally
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from zooadapt.cluster.schedule import Task
from zooadapt.types import ModelSummary


class Metrics:
    """Counted by the driver, from what the workers report."""

    def __init__(self) -> None:
        self._models = Counter("zooadapt_models", "Models that ended.")
        self._variants = Counter(
            "zooadapt_variants",
            "Variants that ended; outcome is made, unsupported or failed, stage where it failed.",
            ("outcome", "stage"),
        )
        self._bytes = Counter("zooadapt_bytes", "Of checkpoints and variants.", ("direction",))
        self._seconds = Counter(
            "zooadapt_seconds", "Spent by all workers on models that ended.", ("stage",)
        )
        self._retries = Counter("zooadapt_retries", "Of models whose process or node ended.")
        self._in_flight = Gauge("zooadapt_in_flight", "Batches that are worked on.", ("stage",))
        self._retried = 0

    def ended(self, summary: ModelSummary) -> None:
        """One more model ended."""
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
        """What runs now, and how many models were tried again so far."""
        for stage, count in running.items():
            self._in_flight.set(count, {"stage": stage})
        if retries > self._retried:
            self._retries.inc(retries - self._retried)
            self._retried = retries
