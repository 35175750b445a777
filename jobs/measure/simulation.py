"""Simulate a cluster: an executor for `schedule` whose tasks only wait, in simulated time.

The order of the work, its batches and its bounds are those of the real `Schedule`. Only the seconds
are simulated, by these rules:

- The driver is one process with one core. It takes `task` / 2 seconds to start a task and as much
  to hear of its end, `lookup_cpu` for a model's look-up and `model` for other work on the model. It
  does one of these at a time. Its load is the part of the run in which it is busy.
- A look-up takes `lookup` seconds. `lookups` of them run at once, and the source takes at most
  `limit` of them in each window of five minutes.
- A task takes the CPU that has been free longest. It fetches S bytes through the links of source
  and node, computes for `start` + S x (`sha256` x (1 + N) + `md5`) seconds, and sends.
- A validator reads back through its node's link, builds the models, then runs them on its node's
  GPU. The GPU does the proofs of one batch at a time.
- A link serves one transfer after the other at full speed, separately in each direction. So all
  transfers together never get more than its bandwidth, and a single transfer gets all of it.

The bytes and the seconds of proofs are those of `estimate`. All nodes are alike, no node is lost,
and only a model that fits no node fails.
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

from zooadapt import costs as model_costs
from zooadapt.cluster.executor import Batch, Capacity, Died, Outcome, Task
from zooadapt.cluster.schedule import Schedule
from zooadapt.costs import PER_GPU
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
"""Seconds of the window in which a source counts look-ups."""


@dataclass(frozen=True)
class Costs:
    """The costs of the tasks, in seconds where no other unit is given."""

    variants: int = 4
    task: float = 1.83e-3
    """The driver's time for a task; a batch takes two tasks. `task` and `model` follow from these
    measurements: 4 ms for a model in a batch of its own and 0.6 ms for a model in batches of 14."""
    model: float = 0.34e-3
    """The driver's time for a model, whatever the size of its batch."""
    lookup_cpu: float = 1.2e-3
    """The driver's time to look up a model; measured against a loopback Hub without TLS."""
    lookup: float = 0.15
    """Time until a look-up is answered; assumed."""
    lookups: int = 16
    """Look-ups that run at once, as in `cluster`."""
    limit: int = 0
    """Most look-ups in five minutes; 0 for no limit."""
    source: float = 0.0
    """Bytes per second of the source, for all nodes together; 0 for no limit."""
    start: float = 1.0
    """CPU time to build a model without values, whatever its size; assumed."""
    sha256: float = 1.0e-9
    """CPU time per byte; measured without the CPU's SHA instructions, with which it is 0.4e-9."""
    md5: float = 1.6e-9
    """CPU time per byte; measured."""


@dataclass(frozen=True)
class Cluster:
    """A cluster of equal nodes, each with one GPU."""

    nodes: int
    cpus: int = 8
    memory: int = 54 * 10**9
    """Bytes of each node for tasks."""
    bandwidth: float = 1.25e9
    """Bytes per second of each node, in each direction."""

    @property
    def capacity(self) -> Capacity:
        """The capacity that `cluster` computes for nodes with one GPU each."""
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
    """Serves one request after the other, `rate` units per second. A rate of 0 takes no time."""

    rate: float
    free: float = 0.0
    """The time at which all requests so far are done."""

    def take(self, now: float, units: float) -> float:
        """Add a request for `units` at the time `now`. Returns the time at which it is done."""
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
    """The estimate for a model with a checkpoint of `size` bytes; kept, as sizes repeat."""
    return estimate.of_model(size, variants, composes=True)


class Simulated:
    """An executor that carries tasks out in simulated time."""

    def __init__(self, cluster: Cluster, costs: Costs, sizes: Callable[[str], int]) -> None:
        """`sizes` returns the bytes of the checkpoint of a model, given its name."""
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
        """The start of the window whose look-ups are counted."""

    def _spend(self, seconds: float) -> None:
        """Keep the driver busy."""
        self.now += seconds
        self.busy += seconds

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what))

    def _catch_up(self) -> None:
        """Carry out the events up to now, in the order of their times."""
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()

    def start(self, task: Task, batch: Batch) -> None:
        """Begin a task, after the driver's own part of the work."""
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
        """The tasks that have ended when the driver next looks. Waits until there is one."""
        while not self._done:
            self.now = max(self.now, self._events[0][0])
            self._catch_up()
        found: list[tuple[Task, Batch, Sequence[Outcome] | Died]] = [*self._done]
        self._done.clear()
        self._spend(self._costs.task / 2 * sum(task != "locate" for task, _, _ in found))
        return found

    def _answered(self) -> float:
        """The time at which a look-up that begins now is answered."""
        when = max(heapq.heappop(self._threads), self.now)
        if self._costs.limit:
            when = self._allowed(when)
        heapq.heappush(self._threads, when + self._costs.lookup)
        return when + self._costs.lookup

    def _allowed(self, when: float) -> float:
        """The time, from `when` on, at which the source takes one more look-up."""
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
        built = model_costs.building_seconds(self._costs.variants) * len(batch.works)
        ready = node.into.take(self.now, back) + built
        self._at(ready, partial(self._run, batch, node, ready))

    def _run(self, batch: Batch, node: _Node, when: float) -> None:
        variants = self._costs.variants
        seconds = sum(model_costs.running_seconds(size, variants) for size in _sizes(batch))
        self._at(node.gpu.take(when, seconds), partial(self._proved, batch, node))

    def _proved(self, batch: Batch, node: _Node) -> None:
        self._validators.append(node)
        self._done.append(("prove", batch, [summary(work.request) for work in batch.works]))

    def _parts(self, batch: Batch) -> list[estimate.Estimate]:
        return [estimated(size, self._costs.variants) for size in _sizes(batch)]


def _sizes(batch: Batch) -> list[int]:
    return [work.located.source.bytes or 0 for work in batch.works if work.located]


def adapted(entry: ModelEntry) -> Adapted:
    """An outcome of `adapt` without variants, to be proved."""
    return Adapted(entry, Checkpoint("", "", "", "", 0), _FACTS, (), None, (), "", (), (), {})


def summary(request: Request) -> ModelSummary:
    """The summary of a model that ended, without figures."""
    return ModelSummary(request.entry, (), (), 0, 0, {}, "")


_JITTER = 0.1
"""The part by which a repeated size can differ from the real size."""


def read_sizes(file: Path) -> list[int]:
    """The bytes of a zoo's checkpoints, 4 per parameter, from a table of its architectures."""
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    return [4 * int(row["parameters"]) for row in rows for _ in range(int(row["tags"]))]


def stretched(sizes: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """`count` sizes: the real sizes shuffled, then the same again and again with jitter."""
    chance, found = random.Random(seed), list[int]()
    while len(found) < count:
        again = chance.sample(sizes, len(sizes))
        low, high = (1 - _JITTER, 1 + _JITTER) if found else (1, 1)
        found += [round(size * chance.uniform(low, high)) for size in again]
    return found[:count]


@dataclass(frozen=True)
class Result:
    """The figures of a simulated run."""

    models: int
    failed: int
    """Models that fit no node."""
    seconds: float
    bound: float
    """Seconds that the busiest link alone would take if it were never idle."""
    load: float
    """The part of the run in which the driver was busy."""

    @property
    def throughput(self) -> float:
        """Models per second."""
        return self.models / self.seconds

    @property
    def efficiency(self) -> float:
        """The seconds of the bound divided by the seconds of the run."""
        return self.bound / self.seconds


def run(
    sizes: Sequence[int],
    cluster: Cluster,
    costs: Costs,
    ended: Callable[[ModelSummary], None] = lambda summary: None,
) -> Result:
    """Simulate models with checkpoints of these bytes. `ended` is called once for each model."""
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
    """Seconds of the busiest link: the source's, or all nodes' links in, or all their links out."""
    read, back, sent = 0, 0, 0
    for part in (estimated(size, costs.variants) for size in sizes):
        read, back, sent = read + part.bytes_in, back + part.bytes_back, sent + part.bytes_sent
    speed = cluster.nodes * cluster.bandwidth
    return max((read + back) / speed, sent / speed, read / costs.source if costs.source else 0.0)
