"""Run `pipeline` for many models on Ray. This module never touches a tensor.

Where the cluster has GPUs, Ray tasks on CPUs fetch, adapt and publish, and Ray actors prove, two to
a GPU. Only small records travel between them. Without GPUs, tasks take their models through all
stages. A process that dies is replaced, and `schedule` decides what becomes of its models.
"""

import concurrent.futures
import math
import time
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Protocol

import ray
from ray.exceptions import NodeDiedError, RayError, RayTaskError

from zooadapt.checkpoints import sources
from zooadapt.cluster import nodes, tasks
from zooadapt.cluster.executor import Batch, Died, Outcome, Task
from zooadapt.cluster.metrics import Metrics
from zooadapt.cluster.nodes import Workers
from zooadapt.cluster.outages import Outages
from zooadapt.cluster.schedule import Schedule
from zooadapt.cluster.tasks import TASK_FUNCTIONS, TaskFunctions
from zooadapt.cluster.validators import Validators
from zooadapt.costs import PER_GPU
from zooadapt.errors import FetchError, RunError, StageError, one_line, redact
from zooadapt.types import Adapted, Job, Located, ModelSummary, Outage, Request

_LOOKUPS = 16
"""Sources looked up at once."""
LOOK_AROUND = 5.0
"""Seconds between two looks at the nodes of the cluster."""
_NAMED = 5_000
"""In runs of more models tasks aren't named after them: Ray keeps 14 kB for every task name."""
_LOOK_SECONDS = 0.2
"""Seconds between two checks for look-ups that have ended, while tasks run."""


@ray.remote(num_cpus=1, max_retries=0)  # else Ray retries for ever where memory runs out
def _adapt(
    adapt: Callable[..., Adapted | ModelSummary],
    batch: Sequence[tuple[Request, Located | None]],
    job: Job,
) -> tuple[str, list[Adapted | ModelSummary]]:
    return nodes.own_id(), tasks.adapt_all(adapt, batch, job, nodes.own_cpus())


@ray.remote(num_cpus=1, max_retries=0)
def _import() -> None:
    tasks.import_all()


class Watcher(Protocol):
    """Is told what happens in a run, in the driver's main thread."""

    def located(self, request: Request, size: int | None) -> None:
        """A model's checkpoint was looked up; `size` is its bytes, if its source states them."""
        ...

    def ended(self, summary: ModelSummary) -> None:
        """A model has ended, and is recorded. Called once for each."""
        ...

    def tick(self) -> None:
        """Some seconds have passed, at most `LOOK_AROUND` where nothing happens."""
        ...


def run(
    requests: Sequence[Request],
    job: Job,
    asked: Workers,
    watcher: Watcher,
    ending: ExitStack,
    is_over: Callable[[], bool] = lambda: False,
) -> Sequence[Outage]:
    """Adapt and prove every request. `watcher` is told what happens.

    Returns the sources that are down, or the store, for which models were left.

    When `ending` is closed because of an error, the tasks that still run are cancelled. Until then
    the caller can write what is known, which is more urgent.

    `asked` is what the cluster can grow to, where that is more than it has. Once `is_over()` is
    true, no further model is begun. Raises RunError where the mirror can't be written to or the
    cluster is gone; all records stay.
    """
    metrics = Metrics()

    def ended(summary: ModelSummary) -> None:
        metrics.ended(summary)
        watcher.ended(summary)

    def progressed(running: Mapping[Task, int], retries: int) -> None:
        metrics.progressed(running, retries)
        watcher.tick()

    outages, named = Outages(), len(requests) <= _NAMED
    avoided = outages.cut_off, outages.without_store
    executor = ending.enter_context(RayExecutor(job, asked, named=named, avoided=avoided))
    executor.prepare(len(requests))
    schedule = Schedule(
        iter(requests),
        executor,
        ended,
        partial(_fail, job),
        place=lambda request: sources.place(request.entry, job.source_root),
        store=redact(job.dest),
        outages=outages,
        is_over=is_over,
        located=watcher.located,
        progressed=progressed,
    )
    schedule.run()
    return [*outages.down.values()]


def _fail(job: Job, request: Request, error: StageError) -> ModelSummary:
    from zooadapt import pipeline  # it imports torch, which the driver seldom needs

    return pipeline.fail(request, job, error)


class RayExecutor:
    """An `Executor` on Ray: adapts in tasks, proves in actors, looks sources up in threads here."""

    def __init__(
        self,
        job: Job,
        asked: Workers,
        functions: TaskFunctions = TASK_FUNCTIONS,
        named: bool = True,
        avoided: tuple[Set[str], Set[str]] = (frozenset(), frozenset()),
    ) -> None:
        """Start `PER_GPU` validators for each GPU that is there, because starting takes a while.

        If `named`, Ray's tools show which models a task works on. Nodes adapt no more models once
        their ids are in the first set of `avoided`, and prove no more once in the second.
        """
        self._avoided, unable_to_prove = avoided
        self._job, self._asked, self._functions, self._named = job, asked, functions, named
        available = nodes.workers(asked)
        self._on_gpus = bool(available.gpus)
        """Whether validators prove, on GPUs. This never changes, whatever nodes join or leave."""
        self._patience = nodes.Patience()
        self._pool = ThreadPoolExecutor(_LOOKUPS)
        self._lookups: dict[Future[Located], Batch] = {}
        self._tasks: dict[ray.ObjectRef, Batch] = {}
        self._validators = Validators(functions.prove, job, unable_to_prove)
        self._look_around()
        for _ in range(nodes.workers().gpus * PER_GPU):
            self._validators.start()

    def prepare(self, models: int) -> None:
        """Let the workers import what they need, while the first of many sources are looked up."""
        cpus = nodes.workers().cpus
        for _ in range(cpus if models > cpus else 0):
            _import.remote()

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind:
            self._cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._validators.close()

    def _look_around(self) -> None:
        """Update the capacity, because nodes may have joined or left."""
        self._looked = time.monotonic()
        available = nodes.workers(self._asked, self._avoided)
        gpus = max(1, available.gpus) if self._on_gpus else 0
        self.capacity = nodes.capacity(replace(available, gpus=gpus), self._avoided)
        waiting = {"CPU": bool(self._tasks), "GPU": self._on_gpus and self._validators.are_awaited}
        self._patience.wait_for([kind for kind, waits in waiting.items() if waits])

    def start(self, task: Task, batch: Batch) -> None:
        """Start a task for the batch, and return without waiting for it."""
        name = self._name(task, batch)
        if task == "locate":
            entry = batch.works[0].request.entry
            self._lookups[self._pool.submit(self._functions.locate, entry, self._job)] = batch
        elif task == "adapt":
            disk = _disk(batch)
            needs = {"CPU": 1.0, "memory": batch.memory, **disk}
            remote = _adapt.options(
                name=name,
                memory=batch.memory,
                resources=disk,
                label_selector=nodes.others(self._avoided, needs),
            ).remote
            calls = [(work.request, work.located) for work in batch.works]
            function = self._functions.adapt if self._on_gpus else self._functions.make
            self._tasks[remote(function, calls, self._job)] = batch
        else:
            self._validators.prove(batch, name)

    def _name(self, task: Task, batch: Batch) -> str:
        if not self._named:
            return task
        first, more = batch.works[0].request.entry.name, len(batch.works) - 1
        return f"{task} {first}" + (f" and {more} more" if more else "")

    def ended(self) -> list[tuple[Task, Batch, Sequence[Outcome] | Died]]:
        """Wait until a task ends, and return every task that has ended since the last call.

        The list is empty where the nodes were looked at before any task ended.
        """
        while True:
            found = [self._found(lookup) for lookup in [*self._lookups] if lookup.done()]
            for ref in self._done(wait=not found):
                found += self._result(ref)
            if time.monotonic() - self._looked > LOOK_AROUND:
                self._look_around()
                self._validators.release()
                return found
            if found:
                return found

    def _done(self, wait: bool) -> list[ray.ObjectRef]:
        """The Ray tasks that have ended. If `wait`, wait a while for one, or for a look-up."""
        refs = [*self._tasks, *self._validators.refs]
        if not refs:
            if wait:
                concurrent.futures.wait(self._lookups, LOOK_AROUND, FIRST_COMPLETED)
            return []
        done: list[ray.ObjectRef]
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not done and wait:
            done, _ = ray.wait(refs, timeout=_LOOK_SECONDS if self._lookups else LOOK_AROUND)
        return done

    def _found(self, lookup: Future[Located]) -> tuple[Task, Batch, Sequence[Outcome] | Died]:
        batch, error = self._lookups.pop(lookup), lookup.exception()
        if isinstance(error, FetchError) and error.passes:
            place = sources.place(batch.works[0].request.entry, self._job.source_root)
            return "locate", batch, [Outage(place, "look-up", one_line(error), error.until)]
        failed = isinstance(error, FetchError)  # the adapt task will ask again
        return "locate", batch, [None if failed else lookup.result()]

    def _result(self, ref: ray.ObjectRef) -> list[tuple[Task, Batch, Sequence[Outcome] | Died]]:
        if self._validators.is_starting(ref):
            self._validators.started(ref)
            return []
        if ref in self._tasks:
            task: Task = "adapt"
            batch = self._tasks.pop(ref)
            result = self._outcome(ref)
        else:
            task = "prove"
            batch, result = self._validators.ended(ref), self._outcome(ref)
            self._validators.freed(ref, alive=not isinstance(result, Died))
        if isinstance(result, Died):
            return [(task, batch, result)]
        batch.node, outcomes = result
        return [(task, batch, outcomes)]

    def _outcome(self, ref: ray.ObjectRef) -> tuple[str, Sequence[Outcome]] | Died:
        """The id of the node that ended a task, and the outcomes."""
        try:
            result: tuple[str, Sequence[Outcome]] = ray.get(ref)
        except RayTaskError as cause:
            raise RunError(one_line(cause.cause or cause)) from cause
        except RayError as cause:
            if not nodes.lives():
                raise RunError(
                    f"the Ray cluster is gone ({one_line(cause)}); start one, then run the same "
                    f"command again to resume"
                ) from cause
            return Died(cause, node_lost=_tells_of_a_node(cause))
        return result

    def _cancel(self) -> None:
        """Cancel the running tasks. The next run repeats whatever they haven't recorded."""
        with suppress(Exception):
            tasks = [*self._tasks]
            for ref in tasks:
                ray.cancel(ref)
            ray.wait(tasks, num_returns=len(tasks), timeout=5)


def _disk(batch: Batch) -> dict[str, float]:
    """The disk that a batch takes, as Ray's resource ``disk_mb``; {} where no node states it."""
    if "disk_mb" not in ray.cluster_resources():
        return {}
    sizes = [work.located.source.bytes or 0 for work in batch.works if work.located]
    return {"disk_mb": math.ceil(max([0, *sizes]) / 1e6)}


def _tells_of_a_node(cause: RayError) -> bool:
    """Whether the error says that the process ended because its node was lost."""
    text = str(cause).lower()
    return isinstance(cause, NodeDiedError) or ("node" in text and "died" in text)
