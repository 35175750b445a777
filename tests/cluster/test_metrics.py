"""The metrics that Prometheus reads at a node's metrics port."""

import time
import urllib.request
from collections.abc import Iterator

import pytest
import ray

from tests.support.jobs import ray_folder
from zooadapt.cluster.metrics import Metrics
from zooadapt.types import Failure, ModelEntry, ModelSummary


@pytest.fixture
def port() -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch, ray_folder() as env:
        patch.setenv("RAY_TMPDIR", env["RAY_TMPDIR"])
        patch.setenv("RAY_metrics_report_interval_ms", "500")
        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
        try:
            yield int(ray.nodes()[0]["MetricsExportPort"])
        finally:
            ray.shutdown()


def exported(port: int) -> dict[str, float]:
    """zooadapt's metrics by their names and labels, without Ray's own labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith("ray_zooadapt_"):
            name, _, rest = line.partition("{")
            labels, _, value = rest.rpartition("} ")
            ours = [part for part in labels.split(",") if part.split("=")[0] in LABELS]
            found[" ".join([name, *sorted(ours)])] = float(value)
    return found


LABELS = ("stage", "outcome", "direction")
ENTRY = ModelEntry("timm", "m", "m", "", None)
FAILURE = Failure(8, "", "repeat", "failed", "validate", "ValidationError", "no")
SUMMARY = ModelSummary(ENTRY, ("1", "4"), (FAILURE,), 100, 250, {"fetch": 2.5}, "cpu")
WANTED = {
    "ray_zooadapt_models_total": 2,
    'ray_zooadapt_variants_total outcome="made" stage=""': 4,
    'ray_zooadapt_variants_total outcome="failed" stage="validate"': 2,
    'ray_zooadapt_bytes_total direction="read"': 200,
    'ray_zooadapt_bytes_total direction="written"': 500,
    'ray_zooadapt_seconds_total stage="fetch"': 5.0,
    "ray_zooadapt_retries_total": 3,
    'ray_zooadapt_in_flight stage="prove"': 1,
}


def test_a_run_is_counted(port: int) -> None:
    metrics = Metrics()
    for retries in (1, 3):
        metrics.ended(SUMMARY)
        metrics.progressed({"adapt": 2, "prove": 1}, retries)
    deadline = time.monotonic() + 60
    while not WANTED.items() <= (found := exported(port)).items():  # sent from time to time
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
