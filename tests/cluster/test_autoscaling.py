"""Ray's autoscaler, with raylets on this machine as the nodes that it adds and removes."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.util.state import list_nodes

from tests.conftest import SMALL
from tests.support.jobs import ROOT, Runner, ok, ray_folder, ray_head, ray_port, rows
from tests.support.nodes import ALL, running, until
from zooadapt.cluster import ray_executor, validators
from zooadapt.cluster.nodes import Workers

ADDRESS = f"127.0.0.1:{ray_port()}"
HEAD = "ray.head.default"
MEMORY = 2 * 10**9


def kind(most: int, **resources: int) -> dict[str, Any]:
    """A kind of node. At first the cluster has none of it, later at most `most`."""
    given = {"memory": MEMORY, "object_store_memory": 10**8, **resources}
    return {"resources": given, "node_config": {}, "min_workers": 0, "max_workers": most}


CONFIG: dict[str, Any] = {
    "cluster_name": "tests",
    "provider": {
        "type": "external",
        "module": "tests.support.fake_nodes.Provider",
        "gcs_address": ADDRESS,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "launch_multiple": True,
        "disable_node_updaters": True,
    },
    "max_workers": 3,
    "upscaling_speed": 10,
    # Long enough for a process to begin on a node that has just come, on a busy machine too.
    "idle_timeout_minutes": 0.25,
    "head_node_type": HEAD,
    "available_node_types": {
        HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": kind(2, CPU=1),
        # Its CPU is there to tempt tasks. The GPU nodes of configs/rayjob.yaml have none.
        "gpu": kind(1, CPU=1, GPU=1),
    },
    # Ray demands the commands that it would run on nodes that it reaches by SSH.
    **{f"{what}_commands": [] for what in ("initialization", "setup", "head_setup")},
    **{f"{what}_commands": [] for what in ("worker_setup", "head_start_ray", "worker_start_ray")},
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A cluster of a head alone. The autoscaler can add two CPU nodes and a GPU node."""
    config = tmp_path_factory.mktemp("head") / "cluster.json"
    config.write_text(json.dumps(CONFIG))
    with pytest.MonkeyPatch.context() as patch, ray_folder() as env:
        patch.setenv("RAY_TMPDIR", env["RAY_TMPDIR"])
        env["RAY_AUTH_MODE"] = "disabled"  # as in this process, where Ray has already read it
        settings = {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "PYTHONPATH": str(ROOT),  # where the autoscaler finds its provider
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_FAKE_CLUSTER": "1",
            "RAY_NODE_TYPE_NAME": HEAD,
            "RAY_enable_autoscaler_v2": "1",  # as with KubeRay
        }
        options = [f"--autoscaling-config={config}", "--node-ip-address=127.0.0.1"]
        with ray_head({**env, **settings}, 0, *options):
            paths = {"env_vars": {"PYTHONPATH": str(ROOT)}}
            ray.init(ADDRESS, log_to_driver=False, runtime_env=paths)
            try:
                yield Runner(env)
            finally:
                ray.shutdown()


def kind_of(resources: dict[str, float]) -> str:
    return "gpu" if resources.get("GPU") else "cpu" if resources.get("CPU") else "head"


def nodes() -> Counter[str]:
    """How many nodes the autoscaler has added and not removed, by kind."""
    kinds = Counter(kind_of(node["Resources"]) for node in ray.nodes() if node["Alive"])
    return kinds - Counter(head=1)


def came() -> list[tuple[float, str]]:
    """When each node joined that the cluster ever had, and its kind; the head first."""
    found = list_nodes(detail=True)
    return sorted((node.start_time_ms / 1e3, kind_of(node.resources_total)) for node in found)


def ordered() -> set[str]:
    """The resources that something waits for."""
    demand = get_cluster_status(ADDRESS).resource_demands.ray_task_actor_demand
    return {name for each in demand for bundle in each.bundles_by_count for name in bundle.bundle}


@pytest.mark.slow  # waits for nodes to join, and to be idle
def test_nodes_come_with_the_work_and_go_with_it(
    head: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "LOOK_AROUND", 0.5)
    monkeypatch.setattr(validators, "IDLE", 2.0)
    until(lambda: not nodes())
    with running(tmp_path, asked=Workers(gpus=1, cpus=2, memory=MEMORY)) as run:
        run.until_begun("adapt", 2)
        until(lambda: not ordered())
        assert nodes() == {"cpu": 2}, "nothing waits to be proved"
        run.let("adapt-m0")
        run.until_begun("prove", 1)
        assert nodes() == {"cpu": 2, "gpu": 1}
        run.let("prove-m0")
        until(lambda: nodes() == {"cpu": 2})
        assert run.ended == ["m0"], "the others are still being adapted"
        run.let("adapt", "prove")
        assert run.join() == ALL
    until(lambda: not nodes())


@pytest.mark.slow  # three jobs
def test_a_job_orders_no_gpu_before_it_has_something_to_validate(
    head: Runner, small: Path, tmp_path: Path
) -> None:
    until(lambda: not nodes())
    limits = ["--cpus", "2", "--gpus", "1", "--node-memory", "2"]
    options = ["--models", SMALL, "--chans", "4", *limits, "--dest", str(tmp_path / "mirror")]
    before = len(came())

    ok(head.job(*options, "--source-root", str(tmp_path)), 1)
    assert [kind for _, kind in came()[before:]] == ["cpu"], "no checkpoint, so nothing to prove"
    until(lambda: not nodes())

    options += ["--retry-failed", "--source-root", str(small)]
    ok(head.job(*options))
    assert rows(tmp_path / "mirror")["in_chans"].tolist() == [4]
    (published,) = (tmp_path / "mirror" / "weights").rglob("4ch*/model.safetensors")
    gpus = [since for since, kind in came()[before:] if kind == "gpu"]
    assert len(gpus) == 1
    assert gpus[0] > published.stat().st_mtime
    until(lambda: not nodes())

    before = len(came())
    ok(head.job(*options))
    assert len(came()) == before, "all is up to date"
