"""Ray's autoscaler, with real raylets as the nodes that it brings and takes away."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.support.jobs import ROOT, ray_folder, ray_head
from tests.test_nodes import ALL, Run, until
from zooadapt import cluster, validators
from zooadapt.cluster import Workers

EACH = {"memory": 2 * 10**9, "object_store_memory": 10**8}
COMMANDS = (
    "initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray",
)  # fmt: skip
CONFIG: dict[str, Any] = {
    "cluster_name": "tests",
    "provider": {"type": "fake_multinode"},
    "max_workers": 3,
    "upscaling_speed": 10,
    "idle_timeout_minutes": 0.1,
    "head_node_type": "ray.head.default",
    **{f"{what}_commands": [] for what in COMMANDS},
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 1, **EACH}, "node_config": {}, "max_workers": 2},
        "gpu": {"resources": {"CPU": 0, "GPU": 1, **EACH}, "node_config": {}, "max_workers": 1},
    },
}


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of a head alone, to which the autoscaler may add two CPU nodes and a GPU node."""
    config = tmp_path / "cluster.json"
    config.write_text(json.dumps(CONFIG))
    with ray_folder() as env:
        env["RAY_AUTH_MODE"] = (
            "disabled"  # this process's own mode was settled when Ray was imported
        )
        monkeypatch.setenv("RAY_TMPDIR", env["RAY_TMPDIR"])
        monkeypatch.setattr(cluster, "_LOOK_AROUND", 0.5)
        monkeypatch.setattr(validators, "_IDLE", 5.0)
        quick = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        with ray_head({**env, **quick}, 0, f"--autoscaling-config={config}"):
            paths = {"env_vars": {"PYTHONPATH": str(ROOT)}}
            address = Path(env["RAY_TMPDIR"], "ray", "ray_current_cluster").read_text().strip()
            ray.init(address, log_to_driver=False, runtime_env=paths)
            try:
                yield
            finally:
                ray.shutdown()


def nodes() -> Counter[str]:
    """The kinds of the nodes that the autoscaler brought."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Counter(
        "gpu" if node.get("GPU") else "cpu" for node in alive if node.get("GPU") or node.get("CPU")
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nodes_come_with_the_work_and_go_with_it(empty: None, tmp_path: Path) -> None:
    assert not nodes()
    asked = Workers(gpus=1, cpus=2, memory=2 * 10**9)
    run = Run(tmp_path, asked)
    run.until_begun("adapt", 2)
    assert nodes() == {"cpu": 2}, "no GPU before there is something to validate"
    run.let("adapt")
    run.until_begun("prove", 1)
    assert nodes()["gpu"] == 1
    run.let("prove")
    assert run.join() == ALL
    until(lambda: not nodes(), seconds=180)
