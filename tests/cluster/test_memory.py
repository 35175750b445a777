"""A model whose process Ray's memory monitor kills again and again is given up; others finish."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SMALL
from tests.support import checkpoints
from tests.support.workers import KILLER, eat_memory, ray_whose_workers, run
from zooadapt.types import Job

pytestmark = pytest.mark.slow  # whatever else runs on the machine takes memory too


def memory_of_this_machine() -> dict[str, int]:
    """The figures of /proc/meminfo, in kB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def test_a_model_that_takes_too_much_memory(tmp_path: Path) -> None:
    for name in (KILLER, SMALL):
        checkpoints.write_hub_repo(tmp_path / "zoo", name)
    job = Job("run", str(tmp_path / "mirror"), source_root=str(tmp_path / "zoo"))
    memory = memory_of_this_machine()
    threshold = 1 - (memory["MemAvailable"] - 3_000_000) / memory["MemTotal"]
    monitor: dict[str, Any] = {"memory_usage_threshold": threshold, "memory_monitor_refresh_ms": 50}
    with ray_whose_workers(eat_memory, **monitor):
        ended = run(job, KILLER, SMALL)
    assert ended[SMALL].made == ("4",)
    (failure,) = ended[KILLER].failures
    assert failure.stage == "worker"
    assert "died 3 times" in failure.error
    assert "memory" in failure.error
