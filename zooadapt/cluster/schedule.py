"""Decide which model is worked on when. An `Executor` does the work: no Ray and no tensors here.

Sources are looked up some way ahead, so that the sizes of models are known. The largest model that
was looked up goes first, because otherwise a long one would be left over at the end. Models are
begun only as far as they fit in memory. Small models travel in batches, so that fewer tasks keep a
cluster busy.
"""

import math
import time
from bisect import bisect_right, insort_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from operator import attrgetter

from zooadapt.cluster.executor import SMALL, Batch, Died, Executor, Outcome, Task, Work
from zooadapt.cluster.outages import ROW, TRIES, Outages
from zooadapt.errors import StageError, TooLarge, WorkerDied
from zooadapt.types import Adapted, ModelSummary, Outage, Request

AHEAD = 128
"""Models looked up ahead, at least. A cluster that works on more at once looks further ahead."""
_LOOKUPS = 32
"""Most look-ups in progress: few are left to wait for where their source turns out to be down."""
_MOST = 64
"""Most models in a batch."""
_PATIENCE = 32
"""How many smaller models can overtake a model that waits for memory."""
_LONGEST_SLEEP = 5.0
"""Most seconds without a look at the time, where nothing runs."""
_MOST_HELD = 1_000
"""Most models begun and held back, because their source doesn't answer."""
_DEATHS = 3
"""Give up a model after this many processes died while working on it."""
_LOSSES = 20
"""Give up a model after this many lost nodes: spot nodes vanish, but it may be crashing them."""


_memory = attrgetter("memory")


def _answered(task: Task, outcome: Outcome) -> str:
    """What the model's source has answered, as `Outage.task` names it; "" for nothing."""
    if task == "locate":
        return "look-up"
    if isinstance(outcome, ModelSummary):
        refused = any(failure.stage == "fetch" for failure in outcome.failures)
        came = task == "adapt" and (outcome.bytes_read or refused or outcome.made)
        return "download" if came else ""
    return "download" if isinstance(outcome, Adapted) else ""


@dataclass
class Schedule:
    """The state of a run.

    Every model that was begun is in one of the places below until it ends, or its source is down.
    """

    requests: Iterator[Request]
    executor: Executor
    summarised: Callable[[ModelSummary], None]
    """Called once for each model, when it is recorded."""
    given_up: Callable[[Request, StageError], ModelSummary]
    """Records that every target of a request failed."""
    place: Callable[[Request], str] = lambda request: ""
    """The source of a model, as `Outage.place` names it."""
    store: str = ""
    """The mirror, as `Outage.place` names it."""
    outages: Outages = field(default_factory=Outages)
    later: list[tuple[float, int, Work]] = field(default_factory=list)
    """A heap of models that met an outage: when each is tried again, and the order of a tie."""
    sleep: Callable[[float], None] = time.sleep
    found: list[Work] = field(default_factory=list)
    """Models that were looked up; the largest last, so that bisection finds the one that fits."""
    waiting: Work | None = None
    """The model of `found` that smaller ones have overtaken while it waits for memory."""
    adapted: deque[Batch] = field(default_factory=deque)
    """Batches that wait for a validator."""
    running: dict[Task, int] = field(default_factory=lambda: {"locate": 0, "adapt": 0, "prove": 0})
    """Batches in progress, by task."""
    is_over: Callable[[], bool] = lambda: False
    """Whether the time is up. What is adapted by then is still proved; nothing else is begun."""
    located: Callable[[Request, int | None], None] = lambda request, size: None
    """Called with each model that was looked up, and the bytes of its checkpoint, if known."""
    progressed: Callable[[Mapping[Task, int], int], None] = lambda running, retries: None
    """Called with `running` and `retries`, whenever tasks have ended or started."""
    retries: int = 0
    """How often a model's process or node ended before the model did."""
    memory: int = 0
    """Bytes of memory that the models taken from `found` can take until they have ended."""
    _open: Counter[str] = field(default_factory=Counter)
    """Models that were begun and haven't ended, by source."""
    _exhausted: bool = False
    """Whether every request was begun."""
    _order: int = 0
    """The number of models that were put into `later`."""

    def run(self) -> None:
        """Work until every model has ended, or the time is up and every begun model has ended.

        Models of a source that is down aren't begun any more, and none is where the store is.
        """
        self._start()
        while any(self.running.values()) or (self.later and not self.is_over()):
            if not any(self.running.values()):
                self.sleep(min(_LONGEST_SLEEP, self.outages.pause(self.later[0][0])))
            else:
                for task, batch, outcomes in self.executor.ended():
                    self.running[task] -= 1
                    self._take(task, batch, outcomes)
            self._start()
            self.progressed(self.running, self.retries)

    def _start(self) -> None:
        """Start what there is room for, but publish no more than the validators keep up with."""
        capacity = self.executor.capacity
        while self.adapted and self._room() and self.running["prove"] < capacity.validators:
            self._begin("prove", self.adapted.popleft())
        if self.is_over():
            return
        self._start_again()
        ahead = max(AHEAD, 2 * capacity.at_once)
        while self.running["locate"] < min(_LOOKUPS, ahead - len(self.found)):
            request = self._next_request()
            if request is None:
                break
            self._begin("locate", Batch([Work(request)], 0))
        if self.running["locate"] and not self.memory:
            return  # at the beginning: first find the largest
        while self._room() and self.running["adapt"] + len(self.adapted) < capacity.adapting:
            work = self._next()
            if work is None:
                return
            batch = Batch([work, *self._others(work)], work.memory)
            self.memory += batch.memory
            self._begin("adapt", batch)

    def _start_again(self) -> None:
        """Start what was held back until now, as far as its source lets it."""
        while (
            self.later
            and self.running["locate"] < _LOOKUPS
            and not self.outages.pause(self.later[0][0])
        ):
            if self._comes_after_others(self.later[0][2]):
                return
            work = heappop(self.later)[2]
            if work.located:
                self._admit(work)
            elif self.outages.lets(self.place(work.request), "look-up"):
                self._begin("locate", Batch([work], 0))
            else:
                self._hold(work)

    def _comes_after_others(self, work: Work) -> bool:
        """Whether a model that met an outage waits for those that weren't tried since.

        They tell sooner whether the source, or the store, is down.
        """
        doubted = any(self.outages.doubts(of) for of in (self.place(work.request), self.store))
        return doubted and work.tries > 0 and any(not each.tries for each in self.found)

    def _next_request(self) -> Request | None:
        """The next request whose source answers; None where none is left, or many are held back."""
        while len(self.later) < _MOST_HELD:
            request = next(self.requests, None)
            if request is None:
                self._exhausted = True
                return None
            if self._is_down(request):
                continue
            self._open[self.place(request)] += 1
            if self.outages.lets(self.place(request), "look-up"):
                return request
            self._hold(Work(request))
        return None

    def _is_down(self, request: Request) -> bool:
        down, place = self.outages.down, self.place(request)
        return bool(down) and any(task == "write" or place == where for where, task in down)

    def _room(self) -> bool:
        return self.running["adapt"] + self.running["prove"] < self.executor.capacity.at_once

    def _begin(self, task: Task, batch: Batch) -> None:
        self.running[task] += 1
        batch.began = self.outages.now()
        self.executor.start(task, batch)

    def _others(self, first: Work) -> list[Work]:
        """The small models that join `first` in its batch, if it is small; some stay for others."""
        others: list[Work] = []
        if first.small is None:
            return others
        room, most = SMALL - first.small, len(self.found) // self.executor.capacity.at_once
        index = bisect_right(self.found, first.memory, key=_memory)  # behind those no larger
        while index and len(others) < min(most, _MOST) - 1:
            index -= 1
            size = self.found[index].small
            if size is None or size > room:
                break
            room -= size
            others.append(self._pop(index))
        return others

    def _next(self) -> Work | None:
        """The largest model that fits in memory; None while a model overtaken too often waits."""
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
        """Pass on the models of a task that has ended."""
        if isinstance(outcomes, Died):
            self._again(batch, outcomes)
            return
        left = []
        for work, outcome in zip(batch.works, outcomes, strict=False):
            outage = outcome.outage if isinstance(outcome, ModelSummary) else outcome
            if isinstance(outage, Outage):
                self._postpone(work, outage, batch.node)
                continue
            if answered := _answered(task, outcome):
                place = self.place(work.request)
                self.outages.answered(place, answered, batch.node, batch.began)
            if isinstance(outcome, ModelSummary):
                self.outages.answered(self.store, "write", batch.node, batch.began)
                self._end(work.request, outcome)
            elif isinstance(outcome, Adapted):
                self.outages.answered(self.store, "write", batch.node, batch.began)
                work.adapted = outcome
                left.append(work)
            elif not isinstance(outcome, Outage):  # which it isn't, as mypy can't see
                work.located = outcome
                self.located(work.request, outcome.source.bytes if outcome else None)
                self._admit(work)
        self._give_back(batch.works[len(outcomes) :])
        if left:
            self.adapted.append(Batch(left, batch.memory))
        else:
            self.memory -= batch.memory

    def _give_back(self, works: Sequence[Work]) -> None:
        """Let models wait that nobody has worked on, unless what they need is down."""
        for work in works:
            if self._is_down(work.request):
                self._open[self.place(work.request)] -= 1
            else:
                self._admit(work)

    def _end(self, request: Request, summary: ModelSummary) -> None:
        self._open[self.place(request)] -= 1
        self.summarised(summary)

    def _postpone(self, work: Work, outage: Outage, node: str) -> None:
        """Try a model again later; hold back, or drop, all models that need what doesn't answer."""
        request, work.adapted = work.request, None
        if outage.task != "write":  # a worker's environment may name the Hub otherwise
            outage = replace(outage, place=self.place(request))
        if outage.task == "look-up":
            work.located = None
        if self.outages.is_limit(outage):
            self._hold(work)
            self._hold_all_for(outage)
            return
        open_ = self._open.total() if outage.task == "write" else self._open[self.place(request)]
        model = request.entry.zoo, request.entry.name
        if self.outages.met(outage, model, open_ if self._exhausted else ROW, node):
            self._drop()
            return
        work.tries += 1
        if work.tries >= TRIES:
            targets = tuple(target.short for target in request.targets)
            self._end(request, ModelSummary(request.entry, (), (), 0, 0, {}, "", targets, outage))
            return
        self._hold(work)
        self._hold_all_for(outage)

    def _hold_all_for(self, outage: Outage) -> None:
        """Hold back all models that need what doesn't answer."""
        if not self.outages.is_closed(outage.place, outage.task):
            return
        found, self.found, self.waiting = self.found, [], None
        for each in found:
            concerned = outage.task == "write" or self.place(each.request) == outage.place
            (self._hold if concerned else self._wait)(each)

    def _drop(self) -> None:
        """Leave all models whose source, or whose store, is down."""
        held = [each[2] for each in self.later]
        gone = [each for each in [*self.found, *held] if self._is_down(each.request)]
        self._open.subtract(self.place(each.request) for each in gone)
        self.found = [each for each in self.found if not self._is_down(each.request)]
        self.later = [each for each in self.later if not self._is_down(each[2].request)]
        heapify(self.later)
        self.waiting = None

    def _hold(self, work: Work) -> None:
        """Hold a model back for a while."""
        self._order += 1
        places = [(self.place(work.request), task) for task in ("look-up", "download")]
        when = self.outages.next_try(work.tries, [*places, (self.store, "write")])
        heappush(self.later, (when, self._order, work))

    def _wait(self, work: Work) -> None:
        insort_left(self.found, work, key=_memory)  # of the same size, the first to come goes first

    def _admit(self, work: Work) -> None:
        """Let a model wait for its turn, unless it fits in no node's memory: then it fails."""
        largest = self.executor.capacity.largest_node
        if work.memory > largest:
            error = TooLarge(
                f"adapting the model can take {work.memory / 1e9:.1f} GB of memory, and the "
                f"largest node has {largest / 1e9:.1f} GB; add a larger node, then run with "
                f"--retry-failed"
            )
            self._end(work.request, self.given_up(work.request, error))
        elif self.outages.lets(self.place(work.request), "download") and self.outages.lets(
            self.store, "write"
        ):
            self._wait(work)
        else:
            self._hold(work)

    def _again(self, batch: Batch, died: Died) -> None:
        """Try each model again, alone if it may have killed its process; in the end give it up."""
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
        doing = "proving" if work.adapted else "adapting"
        error = WorkerDied(
            f"the process {doing} the model died {work.deaths + work.losses} times, for lack of "
            f"memory or by a device error; see the node's logs, then run with --retry-failed"
        )
        error.__cause__ = cause
        self._end(work.request, self.given_up(work.request, error))
