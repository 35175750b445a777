"""An executor for `schedule` whose tasks only wait, in simulated time: what would a cluster do?

The order of the work, its batches and its bounds are those of the real `Schedule`. Simulated are
the seconds, by these rules:

- The driver is one process with one core: starting a task takes it `task` / 2 seconds and hearing
  of its end as much, a model's look-up `lookup_cpu` and the rest `model`. Nothing else begins or is
  heard of meanwhile. Its load is the part of the run that it is busy.
- A look-up takes `lookup` seconds, `lookups` at once, and the source takes at most `limit` of them
  in each window of five minutes.
- A task takes the CPU of a node that has waited longest. It fetches (S bytes through the source's
  link and the node's), computes for `start` + S x (`sha256` x (1 + N) + `md5`) seconds, and sends.
- A validator reads back through its node's link, builds the models, then runs them on its node's
  GPU, which does one batch's proofs at a time.
- A link serves one transfer after the other at its full speed, each way on its own. So all together
  never get more than its bandwidth, and a single one gets all of it.

Bytes and the seconds of proofs are those of `estimate`. Nodes are alike, none is lost, and nothing
fails but what fits no node.
"""

import csv
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

from zooadapt.cluster.schedule import PER_GPU, Batch, Capacity, Died, Outcome, Schedule, Task
from zooadapt.errors import StageError
from zooadapt.job import estimate
from zooadapt.targets import Bands
from zooadapt.types import (
    Adapted,
    Checkpoint,
    Located,
    ModelEntry,
    ModelFacts,
    ModelSummary,
    Request,
    Source,
)

WINDOW = 300.0
"""Seconds in which a source counts look-ups."""


@dataclass(frozen=True)
class Costs:
    """Of the tasks; seconds where nothing else is said."""

    variants: int = 4
    task: float = 1.83e-3
    """The driver's for a task, of which a batch takes two. This and `model` follow from what was
    measured: 4 ms for a model that travels alone and 0.6 ms for one in batches of 14."""
    model: float = 0.34e-3
    """The driver's for a model, whatever it travels with."""
    lookup_cpu: float = 1.2e-3
    """The driver's to look one up on the Hub: measured against a loopback Hub without TLS."""
    lookup: float = 0.15
    """Until a look-up is answered; assumed."""
    lookups: int = 16
    """At once, as in `cluster`."""
    limit: int = 0
    """Look-ups in five minutes; 0 for no limit."""
    source: float = 0.0
    """Bytes a second of the source, for all nodes together; 0 for no bound."""
    start: float = 1.0
    """A model's CPU time whatever its size: building it without values; assumed."""
    sha256: float = 1.0e-9
    """A byte's; measured without the CPU's own instructions, with which it is 0.4."""
    md5: float = 1.6e-9
    """A byte's; measured."""


@dataclass(frozen=True)
class Cluster:
    """Nodes that are alike."""

    nodes: int
    cpus: int = 8
    memory: int = 54 * 10**9
    """Bytes of each node for tasks."""
    bandwidth: float = 1.25e9
    """Bytes a second of each node, each way."""

    @property
    def capacity(self) -> Capacity:
        """As `cluster` makes it of nodes with a GPU each."""
        validators = self.nodes * PER_GPU
        return Capacity(
            validators=validators,
            adapting=self.nodes * self.cpus + 1,
            at_once=self.nodes * self.cpus + 1 + validators,
            memory=self.nodes * self.memory,
            largest_node=self.memory,
        )


@dataclass
class Link:
    """Serves one after the other, at `rate` units a second; without a bound where that is 0."""

    rate: float
    free: float = 0.0
    """When all that was asked of it is done."""

    def take(self, now: float, units: float) -> float:
        """When `units` that are asked for now are done."""
        self.free = max(self.free, now) + (units / self.rate if self.rate else 0.0)
        return self.free


@dataclass
class _Node:
    into: Link
    out: Link
    gpu: Link = field(default_factory=lambda: Link(1.0))


_FACTS = ModelFacts(Bands.counted(3), 1, 1, (), (), 0)


@lru_cache(maxsize=2**16)
def estimated(size: int, variants: int) -> estimate.Estimate:
    return estimate.of_model(size, variants, composes=True)


class Simulated:
    """Carries tasks out in simulated time."""

    def __init__(self, cluster: Cluster, costs: Costs, sizes: Callable[[str], int]) -> None:
        """`sizes` tells the bytes of a model's checkpoint from its name."""
        self.capacity, self._costs, self._sizes = cluster.capacity, costs, sizes
        self.now, self.busy = 0.0, 0.0
        """Seconds: the driver's clock, and how long it was busy."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._done: list[tuple[Task, Batch, Sequence[Outcome]]] = []
        speed = cluster.bandwidth
        nodes = [_Node(Link(speed), Link(speed)) for _ in range(cluster.nodes)]
        self._cpus = deque(nodes * cluster.cpus)
        self._validators = deque(nodes * PER_GPU)
        self._waiting: deque[Batch] = deque()
        self._source = Link(costs.source)
        self._threads = [0.0] * costs.lookups
        self._asked = 0
        self._window = 0.0
        """When the look-ups that are counted began."""

    def _spend(self, seconds: float) -> None:
        """Keep the driver busy."""
        self.now += seconds
        self.busy += seconds

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what))

    def _catch_up(self) -> None:
        """Let happen what happens up to now, in its order."""
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()

    def start(self, task: Task, batch: Batch) -> None:
        """Begin, once the driver has done its part."""
        if task == "locate":
            self._spend(self._costs.lookup_cpu + self._costs.model)
            self._at(self._answered(), partial(self._located, batch))
            return
        self._spend(self._costs.task / 2)
        self._catch_up()
        if task == "prove":
            self._read_back(batch)
        else:
            self._waiting.append(batch)
            self._assign(self.now)

    def ended(self) -> list[tuple[Task, Batch, Sequence[Outcome] | Died]]:
        """All that has ended by when the driver can next hear of it."""
        while not self._done:
            self.now = max(self.now, self._events[0][0])
            self._catch_up()
        found: list[tuple[Task, Batch, Sequence[Outcome] | Died]] = [*self._done]
        self._done.clear()
        self._spend(self._costs.task / 2 * sum(task != "locate" for task, _, _ in found))
        return found

    def cancel(self) -> None:
        """Nothing runs."""

    def _answered(self) -> float:
        """When a look-up that is asked for now is answered."""
        when = max(heapq.heappop(self._threads), self.now)
        if self._costs.limit:
            when = self._allowed(when)
        heapq.heappush(self._threads, when + self._costs.lookup)
        return when + self._costs.lookup

    def _allowed(self, when: float) -> float:
        """When the source takes one more."""
        if when >= self._window + WINDOW:
            self._asked, self._window = 0, when - when % WINDOW
        elif self._asked >= self._costs.limit:
            self._asked, self._window = 0, self._window + WINDOW
        self._asked += 1
        return max(when, self._window)

    def _located(self, batch: Batch) -> None:
        size = self._sizes(batch.works[0].request.entry.name)
        source = Source("hf://x", "", size, "")
        self._done.append(("locate", batch, [Located(source, None, "", when=0.0)]))

    def _assign(self, when: float) -> None:
        """Give waiting batches to free CPUs."""
        while self._waiting and self._cpus:
            batch, node = self._waiting.popleft(), self._cpus.popleft()
            parts = self._parts(batch)
            size = sum(part.bytes_in for part in parts)
            fetched = max(self._source.take(when, size), node.into.take(when, size))
            costs = self._costs
            per_byte = costs.sha256 * (1 + costs.variants) + costs.md5
            computed = fetched + costs.start * len(parts) + per_byte * size
            self._at(computed, partial(self._send, batch, node, computed))

    def _send(self, batch: Batch, node: _Node, when: float) -> None:
        sent = node.out.take(when, sum(part.bytes_sent for part in self._parts(batch)))
        self._at(sent, partial(self._adapted, batch, node, sent))

    def _adapted(self, batch: Batch, node: _Node, when: float) -> None:
        outcomes = [adapted(work.request.entry) for work in batch.works]
        self._done.append(("adapt", batch, outcomes))
        self._cpus.append(node)
        self._assign(when)

    def _read_back(self, batch: Batch) -> None:
        node = self._validators.popleft()
        back = sum(part.bytes_back for part in self._parts(batch))
        built = estimate.building_seconds(self._costs.variants) * len(batch.works)
        ready = node.into.take(self.now, back) + built
        self._at(ready, partial(self._run, batch, node, ready))

    def _run(self, batch: Batch, node: _Node, when: float) -> None:
        variants = self._costs.variants
        seconds = sum(estimate.running_seconds(size, variants) for size in _sizes(batch))
        self._at(node.gpu.take(when, seconds), partial(self._proved, batch, node))

    def _proved(self, batch: Batch, node: _Node) -> None:
        self._validators.append(node)
        self._done.append(("prove", batch, [summary(work.request) for work in batch.works]))

    def _parts(self, batch: Batch) -> list[estimate.Estimate]:
        return [estimated(size, self._costs.variants) for size in _sizes(batch)]


def _sizes(batch: Batch) -> list[int]:
    return [work.located.source.bytes or 0 for work in batch.works if work.located]


def adapted(entry: ModelEntry) -> Adapted:
    """That nothing was made of a model, and is to be proved."""
    return Adapted(entry, Checkpoint("", "", "", "", 0), _FACTS, (), (), "", (), (), {})


def summary(request: Request) -> ModelSummary:
    """That a model ended."""
    return ModelSummary(request.entry, (), (), 0, 0, {}, "")


_JITTER = 0.1
"""By which part a repeated size may differ from the real one."""


def read_sizes(file: Path) -> list[int]:
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
