"""Which model is worked on when. Knows neither Ray nor tensors: an `Executor` carries work out.

Sources are looked up some way ahead, so that sizes are known. Of what was looked up the largest is
taken first, or a long one would be left over at the end; and no more at once than fits in memory.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from zooadapt.errors import StageError, TooLarge, WorkerDied
from zooadapt.records import Adapted, Located, ModelSummary, Request

Stage = Literal["locate", "adapt", "prove"]

AHEAD = 128
"""Models looked up before they are worked on."""
_PATIENCE = 32
"""How many smaller models go before one that waits for memory."""
_DEATHS = 3
"""A model that so many processes died of is given up."""


@dataclass(frozen=True)
class Died:
    """The process that worked on a model ended."""

    cause: Exception


Outcome = Located | Adapted | ModelSummary | Died | None
"""What a stage ended with; None from a look-up that failed, which the next stage will report."""


@dataclass(eq=False, slots=True)
class Work:
    """One model on its way."""

    request: Request
    located: Located | None = None
    adapted: Adapted | None = None
    """What to prove; None until it is adapted."""
    deaths: int = 0
    """How many processes died of it."""
    passed: int = 0
    """How many smaller models went first, for want of memory."""

    @property
    def memory(self) -> int:
        """Bytes that working on it may take: 1.3 times the checkpoint and 1 GB, as measured."""
        size = self.located.source.bytes if self.located else None
        return int(1.3 * (size or 0)) + 10**9

    def __lt__(self, other: "Work") -> bool:
        """Whether it goes before the other."""
        return self.memory > other.memory


@dataclass(frozen=True)
class Capacity:
    """What the executor can take at once."""

    validators: int
    """Models that are proved."""
    adapting: int
    """Models that are adapted, or wait for a validator."""
    at_once: int
    """Both together."""
    memory: int
    """Bytes of all nodes together."""
    largest_node: int
    """Bytes of the node that has most."""


class Executor(Protocol):
    """Carries stages out, somewhere else."""

    capacity: Capacity

    def start(self, stage: Stage, work: Work) -> None:
        """Begin, without waiting."""
        ...

    def ended(self) -> list[tuple[Stage, Work, Outcome]]:
        """Wait until something that was started ends; all that has ended since the last call."""
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
    """Looked up; a heap, the largest first."""
    adapted: deque[Work] = field(default_factory=deque)
    running: dict[Stage, int] = field(default_factory=lambda: {"locate": 0, "adapt": 0, "prove": 0})
    memory: int = 0
    """Bytes that what was taken from `found` and hasn't ended may take."""

    def run(self) -> None:
        """Until every model has ended."""
        try:
            self._start()
            while any(self.running.values()):
                for stage, work, outcome in self.executor.ended():
                    self.running[stage] -= 1
                    self._take(work, outcome)
                self._start()
        except BaseException:
            self.executor.cancel()
            raise

    def _start(self) -> None:
        """Keep everything busy, and no more published than the validators keep up with."""
        capacity = self.executor.capacity
        while self.adapted and self._room() and self.running["prove"] < capacity.validators:
            self._begin("prove", self.adapted.popleft())
        while len(self.found) + self.running["locate"] < AHEAD:
            request = next(self.requests, None)
            if request is None:
                break
            self._begin("locate", Work(request))
        if self.running["locate"] and not self.memory:
            return  # at the beginning, until the largest is known
        while self._room() and self.running["adapt"] + len(self.adapted) < capacity.adapting:
            work = self._next()
            if work is None:
                return
            self.memory += work.memory
            self._begin("adapt", work)

    def _room(self) -> bool:
        return self.running["adapt"] + self.running["prove"] < self.executor.capacity.at_once

    def _begin(self, stage: Stage, work: Work) -> None:
        self.running[stage] += 1
        self.executor.start(stage, work)

    def _next(self) -> Work | None:
        """The largest that fits in memory now; none while one that was passed too often waits."""
        passed: list[Work] = []
        chosen = None
        while self.found and chosen is None:
            work = heapq.heappop(self.found)
            if self.memory == 0 or self.memory + work.memory <= self.executor.capacity.memory:
                chosen = work
            else:
                passed.append(work)
                if work.passed >= _PATIENCE:
                    break
        for work in passed:
            work.passed += chosen is not None
            heapq.heappush(self.found, work)
        return chosen

    def _take(self, work: Work, outcome: Outcome) -> None:
        if isinstance(outcome, ModelSummary):
            self._end(work, outcome)
        elif isinstance(outcome, Adapted):
            work.adapted = outcome
            self.adapted.append(work)
        elif isinstance(outcome, Died):
            self._again(work, outcome.cause)
        else:
            work.located = outcome
            self._admit(work)

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
            heapq.heappush(self.found, work)

    def _again(self, work: Work, cause: Exception) -> None:
        """Try the model again in another process, but not for ever."""
        work.deaths += 1
        if work.deaths >= _DEATHS:
            who = "validating" if work.adapted else "adapting"
            error = WorkerDied(
                f"the process {who} it died {work.deaths} times, for want of memory or of a "
                f"device's error; see the node's logs, then --retry-failed"
            )
            error.__cause__ = cause
            self._end(work, self.given_up(work.request, error))
        elif work.adapted:
            self.adapted.append(work)
        else:
            self.memory -= work.memory
            heapq.heappush(self.found, work)

    def _end(self, work: Work, summary: ModelSummary) -> None:
        self.memory -= work.memory
        self.summarised(summary)
