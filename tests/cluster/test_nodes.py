"""Several nodes that join and leave: real raylets on this machine, with different resources."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.support.jobs import ROOT, ray_folder
from tests.support.nodes import ALL, CAPACITY, node, running, until
from zooadapt.cluster import outages, ray_executor
from zooadapt.cluster.nodes import Workers, capacity, workers
from zooadapt.errors import TooLarge


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster whose head takes no work, like that of a cluster that scales to zero."""
    with ray_folder() as env:
        monkeypatch.setenv("RAY_TMPDIR", env["RAY_TMPDIR"])
        monkeypatch.setattr(ray_executor, "LOOK_AROUND", 0.5)
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        ray.init(
            address=made.address,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        )
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


@pytest.fixture
def one_outage_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node is cut off after one outage; how many it takes otherwise is in `test_outages`."""
    monkeypatch.setattr(outages, "_PAUSE", 0.2)
    monkeypatch.setattr(outages, "NODE_ROW", 1)
    monkeypatch.setattr(outages, "_STRIKES", 1)


def test_cpu_nodes_adapt_gpu_nodes_validate_and_those_that_join_are_used(
    nodes: Cluster, tmp_path: Path
) -> None:
    first = nodes.add_node(num_cpus=1, memory=2 * 10**9)
    gpu = nodes.add_node(num_cpus=0, num_gpus=1)
    with running(tmp_path) as run:
        run.until_begun("adapt", 1)
        second = nodes.add_node(num_cpus=1, memory=2 * 10**9)
        run.until_begun("adapt", 2)
        run.let("adapt", "prove")
        assert run.join() == ALL
    assert set(run.where("adapt")) == {first.node_id, second.node_id}
    assert set(run.where("prove")) == {gpu.node_id}


def test_what_no_node_has_is_said_and_waited_for(
    nodes: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("zooadapt.cluster.nodes.PATIENCE", 1.0)
    with running(tmp_path, models=1, asked=Workers(gpus=1, cpus=1, memory=2 * 10**9)) as run:
        until(lambda: "no node has a CPU, and work has waited" in caplog.text)
        nodes.add_node(num_cpus=1, memory=2 * 10**9)
        run.let("adapt", "prove")
        until(lambda: "no node has a GPU, and work has waited" in caplog.text)
        nodes.add_node(num_cpus=0, num_gpus=1)
        assert run.join() == ["m0"]
    assert not run.failed


@pytest.mark.usefixtures("one_outage_tells")
def test_a_node_that_alone_reaches_nothing_gets_no_more_work(
    nodes: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = _one_cut_off_of_two(nodes, tmp_path)
    with running(tmp_path, models=60) as run:
        run.until_begun_on("adapt", cut)  # else the other node may make all before it has started
        run.let("adapt")
        assert len(run.join()) == 60
    assert f"node {cut[:12]} gets no more work: it can't reach " in caplog.text
    assert run.where("adapt").count(cut) <= 1 + CAPACITY.adapting, "only what was under way"
    assert not run.failed


@pytest.mark.usefixtures("one_outage_tells")
def test_a_node_that_cannot_download_still_proves_where_it_alone_has_the_gpu(
    nodes: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = _one_cut_off_of_two(nodes, tmp_path, num_gpus=1)
    with running(tmp_path, models=60) as run:
        run.until_begun_on("adapt", cut)
        run.let("adapt", "prove")
        assert len(run.join()) == 60
    assert f"node {cut[:12]} gets no more work: it can't reach " in caplog.text
    assert run.where("adapt").count(cut) <= 1 + CAPACITY.adapting
    assert run.where("prove") == [cut] * 60
    assert not run.failed


def _one_cut_off_of_two(nodes: Cluster, folder: Path, num_gpus: int = 0) -> str:
    """Add two nodes, of which one, with the GPUs, reaches no source; returns its id."""
    cut = nodes.add_node(num_cpus=1, num_gpus=num_gpus, memory=2 * 10**9)
    nodes.add_node(num_cpus=1, memory=2 * 10**9)
    (folder / f"{cut.node_id}-is-cut-off").touch()
    return str(cut.node_id)


@pytest.mark.slow  # Ray notices a lost node only after a while
def test_a_node_that_goes_loses_only_what_it_held_and_blames_nobody(
    nodes: Cluster, tmp_path: Path
) -> None:
    lost = nodes.add_node(num_cpus=1, memory=2 * 10**9)
    with running(tmp_path, models=1) as run:
        for times in (1, 2, 3, 4):  # more often than a model's process can die
            run.until_begun("adapt", times)
            nodes.remove_node(lost, allow_graceful=False)
            lost = nodes.add_node(num_cpus=1, memory=2 * 10**9)
        run.let("adapt", "prove")
        assert run.join() == ["m0"]
        assert not run.failed
        assert len(run.where("adapt")) == 5


@pytest.mark.slow  # a cluster of its own
def test_a_model_goes_to_a_node_that_can_hold_it_and_to_no_other(
    nodes: Cluster, tmp_path: Path
) -> None:
    nodes.add_node(num_cpus=2, memory=10**9)  # a model of 100 MB can take 1.13 GB
    large = nodes.add_node(num_cpus=1, memory=2 * 10**9)
    with running(tmp_path) as run:
        run.let("adapt", "prove")
        assert run.join() == ALL
    assert set(run.where("adapt")) == {large.node_id}


@pytest.mark.slow  # a cluster of its own
def test_one_that_no_disk_holds_waits_for_none(nodes: Cluster, tmp_path: Path) -> None:
    nodes.add_node(num_cpus=2, memory=4 * 10**9, resources={"disk_mb": 50})
    large = nodes.add_node(num_cpus=1, memory=4 * 10**9, resources={"disk_mb": 150})
    with running(tmp_path) as run:
        run.let("adapt", "prove")
        assert run.join() == ALL
    assert set(run.where("adapt")) == {large.node_id}


def test_one_that_fits_no_node_is_a_failure(nodes: Cluster, tmp_path: Path) -> None:
    nodes.add_node(num_cpus=1, memory=10**9)
    with running(tmp_path, models=1) as run:
        run.join()
    assert isinstance(run.failed["m0"], TooLarge)


# Counting what the cluster has


@pytest.mark.parametrize(
    ("resources", "validators", "line"),
    [
        ({"CPU": 1}, 0, "no GPU: proving on 1 CPU"),
        ({"CPU": 16}, 0, "no GPU: proving on 16 CPUs"),
        ({"CPU": 8, "GPU": 1}, 2, "proving on 1 GPU, 2 validators each"),
        ({"CPU": 64, "GPU": 4}, 8, "proving on 4 GPUs, 2 validators each"),
    ],
)
def test_validators_are_for_gpus(
    resources: dict[str, float], validators: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": resources}])
    division = workers()
    assert division.validators == validators
    assert str(division).endswith(line)
    assert division.at_once > division.validators


def test_a_head_that_takes_no_work_and_nodes_that_are_gone_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [node(0, 64), node(4, 16), node(2, 8, gpus=1), node(32, 256, alive=False)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert workers() == Workers(gpus=1, cpus=6, memory=16 * 10**9)
    found = capacity(workers())
    assert (found.memory, found.largest_node) == (24 * 10**9, 16 * 10**9)


def test_what_may_still_come_counts_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [node(0, 4)])
    asked = workers(Workers(gpus=2, cpus=16, memory=32 * 10**9))
    found = capacity(asked)
    assert (asked.gpus, asked.cpus, found.validators) == (2, 16, 4)
    assert found.largest_node == 32 * 10**9
    assert found.memory >= found.largest_node


def test_where_nodes_are_brought_a_gpu_node_s_cpus_are_not_counted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = [node(4, 16), node(8, 64, gpus=1)]
    monkeypatch.setattr(ray, "nodes", lambda: both)
    fixed, growing = workers(), workers(Workers(cpus=2))
    assert [capacity(each).adapting for each in (fixed, growing)] == [13, 4]
    assert growing.memory == 64 * 10**9, "a larger model can go to the GPU node"
    monkeypatch.setattr(ray, "nodes", lambda: both[1:])
    assert capacity(workers(Workers(gpus=2))).adapting == 8
