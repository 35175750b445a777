"""Simulated runs obey physics: no link carries more than it can, and every model ends once."""

import itertools
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.measure import simulation
from jobs.measure.simulation import WINDOW, Cluster, Costs, Link
from zooadapt.cluster.executor import Work

JOB = Path(__file__).parents[2] / "jobs" / "simulate.py"
SIZES = simulation.stretched([4 * 10**6, 10**8, 6 * 10**8, 2 * 10**9], 1000)
FREE = Costs(task=0.0, model=0.0, lookup_cpu=0.0, lookup=0.0)
"""The costs with a driver that takes no time."""


def test_every_model_ends_once() -> None:
    ended: Counter[str] = Counter()
    result = simulation.run(
        SIZES, Cluster(3), Costs(), lambda summary: ended.update([summary.entry.name])
    )
    assert ended == Counter(map(str, range(len(SIZES))))
    assert (result.models, result.failed) == (len(SIZES), 0)


def test_one_that_fits_no_node_fails_and_the_others_end() -> None:
    result = simulation.run([*SIZES, 10**11], Cluster(2), Costs())
    assert (result.models, result.failed) == (len(SIZES) + 1, 1)


@pytest.mark.parametrize("costs", [Costs(), FREE, Costs(source=2e9), Costs(limit=100)])
def test_more_nodes_are_not_slower_and_none_beats_the_links(costs: Costs) -> None:
    results = [simulation.run(SIZES, Cluster(nodes), costs) for nodes in (1, 3, 10, 30)]
    for fewer, more in itertools.pairwise(results):
        assert more.seconds <= 1.01 * fewer.seconds
    assert all(0 < result.efficiency <= 1 and 0 <= result.load <= 1 for result in results)


def test_where_nothing_but_the_links_costs_the_bound_is_reached() -> None:
    costs = replace(FREE, start=0.0, sha256=0.0, md5=0.0)
    sizes = [10**8] * 3000
    result = simulation.run(sizes, Cluster(2, cpus=32, bandwidth=5e7), costs)
    assert result.efficiency > 0.97


def test_a_source_that_is_the_bound_is_reached() -> None:
    costs = replace(FREE, source=2e8)
    result = simulation.run([10**8] * 1000, Cluster(20), costs)
    assert result.bound == pytest.approx(500)
    assert result.efficiency > 0.95


def test_a_source_takes_so_many_look_ups_in_five_minutes() -> None:
    result = simulation.run([4 * 10**6] * 1000, Cluster(10), Costs(limit=100))
    assert 9 * WINDOW < result.seconds < 10 * WINDOW


def test_a_driver_has_one_core() -> None:
    costs = replace(FREE, task=0.5, start=0.0)
    result = simulation.run([10**8] * 500, Cluster(50), costs)
    assert result.seconds >= 500 * 2 * 0.5, "two tasks a model"
    assert result.load > 0.95


def test_a_link_serves_one_after_the_other() -> None:
    link = Link(10.0)
    assert [link.take(0, 20), link.take(1, 10), link.take(9, 10)] == [2, 3, 10]
    assert Link(0.0).take(5, 1e12) == 5


def test_the_schedule_looks_at_few_models_where_memory_is_tight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked, memory = [0], Work.memory.fget  # type: ignore[attr-defined]

    def counting(work: Work) -> int:
        looked[0] += 1
        found: int = memory(work)
        return found

    monkeypatch.setattr(Work, "memory", property(counting))
    simulation.run(SIZES, Cluster(20, memory=5 * 10**9), Costs())
    assert looked[0] < 150 * len(SIZES)


def test_a_stretched_zoo_begins_with_the_real_one_and_is_the_same_each_time() -> None:
    sizes = simulation.read_sizes(JOB.parent / "data" / "timm-1.0.31.csv")
    assert len(sizes) == 1826
    assert sorted(simulation.stretched(sizes, 1826)) == sorted(sizes)
    assert simulation.stretched(sizes, 5000) == simulation.stretched(sizes, 5000)


def test_the_job_prints_a_line_a_case_and_plots(tmp_path: Path) -> None:
    plot = tmp_path / "scale.svg"
    command = [sys.executable, str(JOB), "--models", "300", "--nodes", "1,5", "--plot", str(plot)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = re.findall(r"^(\w+) +(\d+) +[\d.]+ +[\d.]+ +[\d.]+% +[\d.]+% +0$", done.stdout, re.M)
    assert len(lines) == 8
    assert plot.read_text().count("models a second") == 1
