"""Which model is worked on when. Knows neither Ray nor tensors: an `Executor` carries work out.

Sources are looked up some way ahead, so that sizes are known. Of what was looked up the largest is
taken first, or a long one would be left over at the end; and no more at once than fits in memory.
Small models travel in batches, so that it takes fewer tasks than models to keep a cluster busy.
"""

import math
from bisect import bisect_right, insort_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal, Protocol

from zooadapt.errors import StageError, TooLarge, WorkerDied
from zooadapt.types import Adapted, Located, ModelSummary, Request

Task = Literal["locate", "adapt", "prove"]

AHEAD = 128
"""Models looked up before they are worked on, at least; more where more are worked on at once."""
SMALL = 64 * 2**20
"""Bytes of the checkpoints of a batch; a larger one travels alone."""
_MOST = 64
"""Models of a batch."""
PER_GPU = 2
"""Validators that share a GPU: one reads its model back while the other runs its own."""
_PATIENCE = 32
"""How many smaller models go before one that waits for memory."""
_DEATHS = 3
"""A model that so many processes died of is given up."""
_LOSSES = 20
"""So is one that so many nodes were lost with: spot nodes go, but perhaps it takes them along."""


@dataclass(frozen=True)
class Died:
    """The process that worked on a batch ended."""

    cause: Exception
    node_lost: bool = False
    """Whether with all of its node: no fault of the models."""


Outcome = Located | Adapted | ModelSummary | None
"""What a task ended with; None from a look-up that failed, which the next task will report."""


@dataclass(eq=False, slots=True)
class Work:
    """One model on its way."""

    request: Request
    located: Located | None = None
    adapted: Adapted | None = None
    """What to prove; None until it is adapted."""
    deaths: int = 0
    """How many processes died of it, or of a batch that it was in."""
    losses: int = 0
    """How many nodes were lost while it was worked on there."""
    passed: int = 0
    """How many smaller models went first, for want of memory."""

    @property
    def memory(self) -> int:
        """Bytes that working on it may take: 1.3 times the checkpoint and 1 GB, as measured."""
        size = self.located.source.bytes if self.located else None
        return int(1.3 * (size or 0)) + 10**9

    @property
    def small(self) -> int | None:
        """Bytes of its checkpoint, if it may travel with others."""
        size = self.located.source.bytes if self.located else None
        return size if size is not None and size <= SMALL and not self.deaths else None


_memory = attrgetter("memory")


@dataclass(eq=False, slots=True)
class Batch:
    """Models that one process works on, one after the other."""

    works: list[Work]
    """The largest first."""
    memory: int
    """Bytes that it may take."""


@dataclass(frozen=True)
class Capacity:
    """What the executor can take at once."""

    validators: int
    """Batches that are proved."""
    adapting: int
    """Batches that are adapted, or wait for a validator."""
    at_once: int
    """Both together."""
    memory: int
    """Bytes of all nodes together."""
    largest_node: int
    """Bytes of the node that has most."""


class Executor(Protocol):
    """Carries tasks out, somewhere else."""

    capacity: Capacity

    def start(self, task: Task, batch: Batch) -> None:
        """Begin, without waiting. A batch to be looked up is of one model."""
        ...

    def ended(self) -> list[tuple[Task, Batch, Sequence[Outcome] | Died]]:
        """Wait until something that was started ends; all that has ended since the last call.

        With an outcome for each model of a batch.
        """
        ...

    def cancel(self) -> None:
        """Stop what runs."""
        ...


@dataclass
class Schedule:
    """The state of a run: every model that hasn't ended is in exactly one place."""

    requests: Iterator[Request]
    executor: Executor
    summarised: Callable[[ModelSummary], None]
    """Hears of each model once, when it is recorded."""
    given_up: Callable[[Request, StageError], ModelSummary]
    """Records that all of a request failed."""
    found: list[Work] = field(default_factory=list)
    """Looked up; the largest last, so that what fits is found in a few steps."""
    waiting: Work | None = None
    """Of those found the one that smaller ones have passed, for want of memory."""
    adapted: deque[Batch] = field(default_factory=deque)
    running: dict[Task, int] = field(default_factory=lambda: {"locate": 0, "adapt": 0, "prove": 0})
    is_over: Callable[[], bool] = lambda: False
    """Whether the time is up: what is adapted is still proved, and nothing else is begun."""
    progressed: Callable[[Mapping[Task, int], int], None] = lambda running, retries: None
    """Hears how many batches run in each task, and how many models were tried again so far."""
    retries: int = 0
    memory: int = 0
    """Bytes that what was taken from `found` and hasn't ended may take."""

    def run(self) -> None:
        """Until every model has ended."""
        try:
            self._start()
            while any(self.running.values()):
                for task, batch, outcomes in self.executor.ended():
                    self.running[task] -= 1
                    self._take(task, batch, outcomes)
                self._start()
                self.progressed(self.running, self.retries)
        except BaseException:
            self.executor.cancel()
            raise

    def _start(self) -> None:
        """Keep everything busy, and no more published than the validators keep up with."""
        capacity = self.executor.capacity
        while self.adapted and self._room() and self.running["prove"] < capacity.validators:
            self._begin("prove", self.adapted.popleft())
        if self.is_over():
            return
        while len(self.found) + self.running["locate"] < max(AHEAD, 2 * capacity.at_once):
            request = next(self.requests, None)
            if request is None:
                break
            self._begin("locate", Batch([Work(request)], 0))
        if self.running["locate"] and not self.memory:
            return  # at the beginning, until the largest is known
        while self._room() and self.running["adapt"] + len(self.adapted) < capacity.adapting:
            work = self._next()
            if work is None:
                return
            batch = Batch([work, *self._others(work)], work.memory)
            self.memory += batch.memory
            self._begin("adapt", batch)

    def _room(self) -> bool:
        return self.running["adapt"] + self.running["prove"] < self.executor.capacity.at_once

    def _begin(self, task: Task, batch: Batch) -> None:
        self.running[task] += 1
        self.executor.start(task, batch)

    def _others(self, first: Work) -> list[Work]:
        """The small models that travel with a small one; enough are left for everyone else."""
        others: list[Work] = []
        if first.small is None:
            return others
        room, most = SMALL - first.small, len(self.found) // self.executor.capacity.at_once
        index = bisect_right(self.found, first.memory, key=_memory)  # after those no larger
        while index and len(others) < min(most, _MOST) - 1:
            index -= 1
            size = self.found[index].small
            if size is None or size > room:
                break
            room -= size
            others.append(self._pop(index))
        return others

    def _next(self) -> Work | None:
        """The largest that fits in memory now; none while one that was passed too often waits."""
        free = self.executor.capacity.memory - self.memory if self.memory else math.inf
        index = bisect_right(self.found, free, key=_memory) - 1
        if index < 0:
            return None
        waiting = self.waiting or self.found[-1]
        if _memory(waiting) > free:
            if waiting.passed >= _PATIENCE:
                return None
            waiting.passed += 1
            self.waiting = waiting
        return self._pop(index)

    def _pop(self, index: int) -> Work:
        work = self.found.pop(index)
        if work is self.waiting:
            self.waiting = None
        return work

    def _take(self, task: Task, batch: Batch, outcomes: Sequence[Outcome] | Died) -> None:
        if isinstance(outcomes, Died):
            self._again(batch, outcomes)
            return
        left = []
        for work, outcome in zip(batch.works, outcomes, strict=True):
            if isinstance(outcome, ModelSummary):
                self.summarised(outcome)
            elif isinstance(outcome, Adapted):
                work.adapted = outcome
                left.append(work)
            else:
                work.located = outcome
                self._admit(work)
        if left:
            self.adapted.append(Batch(left, batch.memory))
        else:
            self.memory -= batch.memory

    def _wait(self, work: Work) -> None:
        insort_left(self.found, work, key=_memory)  # the one that came first goes first

    def _admit(self, work: Work) -> None:
        """Let it wait for its turn, unless no node could hold it."""
        largest = self.executor.capacity.largest_node
        if work.memory > largest:
            error = TooLarge(
                f"adapting it may take {work.memory / 1e9:.1f} GB of memory, and the largest node "
                f"has {largest / 1e9:.1f} GB; add one with more, then --retry-failed"
            )
            self.summarised(self.given_up(work.request, error))
        else:
            self._wait(work)

    def _again(self, batch: Batch, died: Died) -> None:
        """Try each model again in another process, alone if it may be its fault; not for ever."""
        self.memory -= batch.memory
        for work in batch.works:
            self.retries += 1
            work.losses += died.node_lost
            work.deaths += not died.node_lost
            if work.deaths >= _DEATHS or work.losses >= _LOSSES:
                self._give_up(work, died.cause)
            elif work.adapted:
                self.memory += work.memory
                self.adapted.append(Batch([work], work.memory))
            else:
                self._wait(work)

    def _give_up(self, work: Work, cause: Exception) -> None:
        who = "validating" if work.adapted else "adapting"
        error = WorkerDied(
            f"the process {who} it died {work.deaths + work.losses} times, for want of memory or "
            f"of a device's error; see the node's logs, then --retry-failed"
        )
        error.__cause__ = cause
        self.summarised(self.given_up(work.request, error))
