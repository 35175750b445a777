"""How a run scales: zoos of any size, stretched from a real one, through `simulation`."""

import csv
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zooadapt.cluster.schedule import Schedule
from zooadapt.errors import StageError
from zooadapt.measure.simulation import Cluster, Costs, Simulated, estimated, summary
from zooadapt.types import ModelEntry, ModelSummary, Request

_JITTER = 0.1
"""By which part a repeated size may differ from the real one."""


def listed(file: Path) -> list[int]:
    """The bytes of a zoo's checkpoints, 4 a parameter, from a table of its architectures."""
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    return [4 * int(row["parameters"]) for row in rows for _ in range(int(row["tags"]))]


def stretched(sizes: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """So many sizes: the real ones in any order, again and again, the repeated ones with jitter."""
    chance, found = random.Random(seed), list[int]()
    while len(found) < count:
        again = chance.sample(sizes, len(sizes))
        low, high = (1 - _JITTER, 1 + _JITTER) if found else (1, 1)
        found += [round(size * chance.uniform(low, high)) for size in again]
    return found[:count]


@dataclass(frozen=True)
class Result:
    """What a simulated run came to."""

    models: int
    failed: int
    """Models that fit no node."""
    seconds: float
    bound: float
    """Seconds that the busiest link alone would take, were it never idle."""
    load: float
    """The part of the run in which the driver was busy."""

    @property
    def throughput(self) -> float:
        """Models a second."""
        return self.models / self.seconds

    @property
    def efficiency(self) -> float:
        """The bound's time over the run's."""
        return self.bound / self.seconds


def run(
    sizes: Sequence[int],
    cluster: Cluster,
    costs: Costs,
    ended: Callable[[ModelSummary], None] = lambda summary: None,
) -> Result:
    """Simulate models with checkpoints of these bytes; `ended` hears of each once."""
    executor = Simulated(cluster, costs, lambda name: sizes[int(name)])
    failed: list[Request] = []

    def given_up(request: Request, error: StageError) -> ModelSummary:
        failed.append(request)
        return summary(request)

    Schedule(_requests(len(sizes)), executor, ended, given_up).run()
    seconds = executor.now
    bound = bound_seconds(sizes, cluster, costs)
    return Result(len(sizes), len(failed), seconds, bound, executor.busy / seconds)


def _requests(models: int) -> Iterator[Request]:
    for number in range(models):
        yield Request(ModelEntry("simulated", str(number), "", "", None), ())


def bound_seconds(sizes: Sequence[int], cluster: Cluster, costs: Costs) -> float:
    """The busiest link's time: the source's, or that of all nodes into them or out of them."""
    read, back, sent = 0, 0, 0
    for part in (estimated(size, costs.variants) for size in sizes):
        read, back, sent = read + part.bytes_in, back + part.bytes_back, sent + part.bytes_sent
    speed = cluster.nodes * cluster.bandwidth
    return max((read + back) / speed, sent / speed, read / costs.source if costs.source else 0.0)
