"""`pipeline` for many models on Ray. Knows nothing of tensors.

Tasks on CPUs fetch, adapt and publish; actors prove, one to a GPU where the cluster has GPUs. Only
small records travel between them. A process that dies is replaced; `schedule` says what then.
"""

import concurrent.futures
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import NodeDiedError, RayError, RayTaskError

from zooadapt import pipeline, sources
from zooadapt.errors import FetchError, RunError, StageError, one_line
from zooadapt.metrics import Metrics
from zooadapt.records import Adapted, Job, Located, ModelEntry, ModelSummary, Request
from zooadapt.schedule import PER_GPU, Batch, Capacity, Died, Outcome, Schedule, Stage
from zooadapt.validators import Validators, quoted

_LOOKUPS = 16
"""Sources asked at once."""
_LOOK_AROUND = 5.0
"""Seconds after which it is seen again what nodes there are."""
_NAMED = 5_000
"""Models up to which tasks are named after theirs: Ray's metrics keep 14 kB of every name."""
_LOOK_SECONDS = 0.2
"""How often look-ups are seen to while tasks run."""


@dataclass(frozen=True)
class Stages:
    """What is done to a model, wherever; importable functions."""

    locate: Callable[[ModelEntry, Job], Located]
    adapt: Callable[[Request, Job, Located | None], Adapted | ModelSummary]
    prove: Callable[[Adapted, Job], ModelSummary]


STAGES = Stages(sources.locate, pipeline.adapt, pipeline.prove)


@ray.remote(num_cpus=1, max_retries=0)  # Ray itself would try one that runs out of memory for ever
def _adapt(
    stage: Callable[..., Adapted | ModelSummary],
    batch: Sequence[tuple[Request, Located | None]],
    job: Job,
) -> list[Adapted | ModelSummary]:
    results = []
    for request, located in batch:
        with quoted(request.entry, job):
            results.append(stage(request, job, located))
    return results


@dataclass(frozen=True)
class Workers:
    """What the two kinds of work are done with: what the cluster has, or may grow to."""

    gpus: int = 0
    cpus: int = 0
    memory: int = 0
    """Bytes of the largest node; 0 where nothing is asked for."""
    grows: bool = False
    """Whether Ray's autoscaler brings nodes, also for whatever waits for one."""

    @property
    def validators(self) -> int:
        """Some for each GPU; without any, as many as there is work for, up to one for each CPU."""
        return self.gpus * PER_GPU or self.cpus

    @property
    def adapting(self) -> int:
        """Batches that are adapted: one more than there are CPUs, lest one waits for the next.

        Not where that would bring another node, perhaps with a GPU.
        """
        return self.cpus + (not self.grows)

    @property
    def at_once(self) -> int:
        """Batches worked on."""
        return self.adapting + self.gpus * PER_GPU

    @property
    def options(self) -> dict[str, Any]:
        """The Ray resources of one validator."""
        # Never CPUs: two jobs that hold what the other's tasks wait for would wait for ever.
        if self.gpus:
            return {"num_gpus": 1 / PER_GPU, "num_cpus": 0}
        return {"num_cpus": 0, "scheduling_strategy": "SPREAD"}

    def __str__(self) -> str:
        if self.gpus:
            plural = "s" * (self.gpus > 1)
            return f"validating on {self.gpus} GPU{plural}, {PER_GPU} workers each"
        plural = "s" * (self.validators > 1)
        return f"the cluster has no GPU: validating on {self.validators} CPU worker{plural}"


def workers(asked: Workers = Workers()) -> Workers:
    """What the cluster has now, or what was asked for where that is more."""
    grows = bool(asked.cpus or asked.gpus)
    cpus = sum(node.get("CPU", 0) for node in _nodes(grows))
    memory = [int(node.get("memory", 0)) for node in _nodes(grows=False)]
    return Workers(
        gpus=max(asked.gpus, int(sum(node.get("GPU", 0) for node in _alive()))),
        cpus=max(asked.cpus, 1, int(cpus)),
        memory=max(asked.memory, *memory),
        grows=grows,
    )


def _alive() -> list[dict[str, float]]:
    """The resources of every node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _nodes(grows: bool) -> list[dict[str, float]]:
    """Those of the nodes that adapt; where none does yet, of all.

    A GPU node that was brought has to go when nothing is to be validated, so its CPUs stay free, as
    far as Ray has others.
    """
    alive = _alive()
    adapt = [node for node in alive if node.get("CPU", 0) >= 1]
    stay = [node for node in adapt if not (grows and node.get("GPU"))]
    return stay or adapt or alive or [{}]


def _capacity(division: Workers) -> Capacity:
    nodes = _nodes(division.grows)
    cpus = sum(node.get("CPU", 0) for node in nodes)
    memory = int(sum(node.get("memory", 0) for node in nodes))
    lacking = max(0, division.cpus - int(cpus))  # may still come, with a CPU's share of a node
    per_cpu = memory / cpus if cpus else division.memory
    return Capacity(
        validators=division.validators,
        adapting=division.adapting,
        at_once=division.at_once,
        memory=max(division.memory, memory + int(lacking * per_cpu)),
        largest_node=division.memory,
    )


def run(
    requests: Sequence[Request],
    job: Job,
    asked: Workers,
    ended: Callable[[ModelSummary], None],
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Adapt and prove every request; `ended` hears of each model once, when it is recorded.

    `asked` is what the cluster may grow to, where that is more than it has. Once `is_over` nothing
    more is begun. Raises RunError where the mirror can't be written to. On KeyboardInterrupt what
    runs is cancelled and what is recorded stays.
    """
    metrics = Metrics()

    def summarised(summary: ModelSummary) -> None:
        metrics.ended(summary)
        ended(summary)

    with RayExecutor(job, asked, named=len(requests) <= _NAMED) as executor:
        Schedule(
            iter(requests),
            executor,
            summarised,
            partial(_fail, job),
            is_over=is_over,
            progressed=metrics.progressed,
        ).run()


def _fail(job: Job, request: Request, error: StageError) -> ModelSummary:
    return pipeline.fail(request, job, error)


class RayExecutor:
    """Looks sources up in threads of this process, adapts in Ray tasks, proves in Ray actors."""

    def __init__(
        self, job: Job, asked: Workers, stages: Stages = STAGES, named: bool = True
    ) -> None:
        """Starts a validator, or some for each GPU that is there, as that takes a while.

        Where `named`, Ray's tools show which models a task is of.
        """
        self._job, self._asked, self._stages, self._named = job, asked, stages, named
        division = workers(asked)
        self._on_gpus = bool(division.gpus)
        """Whether proofs are done there; it stays so, whatever joins or goes."""
        self._look_around()
        self._pool = ThreadPoolExecutor(_LOOKUPS)
        self._lookups: dict[Future[Located], Batch] = {}
        self._tasks: dict[ray.ObjectRef, Batch] = {}
        self._validators = Validators(stages.prove, job, division.options)
        for _ in range(workers().gpus * PER_GPU or not asked.gpus):
            self._validators.start()

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._validators.close()

    def _look_around(self) -> None:
        """See what nodes have joined or left."""
        self._looked = time.monotonic()
        division = workers(self._asked)
        gpus = max(1, division.gpus) if self._on_gpus else 0
        self.capacity = _capacity(replace(division, gpus=gpus))

    def start(self, stage: Stage, batch: Batch) -> None:
        """Begin, without waiting."""
        name = self._name(stage, batch)
        if stage == "locate":
            entry = batch.works[0].request.entry
            self._lookups[self._pool.submit(self._stages.locate, entry, self._job)] = batch
        elif stage == "adapt":
            task = _adapt.options(name=name, memory=batch.memory, resources=_disk(batch))
            calls = [(work.request, work.located) for work in batch.works]
            self._tasks[task.remote(self._stages.adapt, calls, self._job)] = batch
        else:
            self._validators.prove(batch, name)

    def _name(self, stage: Stage, batch: Batch) -> str:
        if not self._named:
            return stage
        first, more = batch.works[0].request.entry.name, len(batch.works) - 1
        return f"{stage} {first}" + (f" and {more} more" if more else "")

    def ended(self) -> list[tuple[Stage, Batch, Sequence[Outcome] | Died]]:
        """Wait until something that was started ends; all that has ended since the last call.

        Nothing where nodes have joined or left meanwhile.
        """
        while True:
            found = [self._found(lookup) for lookup in [*self._lookups] if lookup.done()]
            for ref in self._done(wait=not found):
                found += self._result(ref)
            if time.monotonic() - self._looked > _LOOK_AROUND:
                self._look_around()
                self._validators.release()
                return found
            if found:
                return found

    def _done(self, wait: bool) -> list[ray.ObjectRef]:
        """The tasks that ended; wait for one, or for a look-up, or to look around again."""
        refs = [*self._tasks, *self._validators.refs]
        if not refs:
            if wait:
                concurrent.futures.wait(self._lookups, return_when=FIRST_COMPLETED)
            return []
        done: list[ray.ObjectRef]
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not done and wait:
            done, _ = ray.wait(refs, timeout=_LOOK_SECONDS if self._lookups else _LOOK_AROUND)
        return done

    def _found(self, lookup: Future[Located]) -> tuple[Stage, Batch, Sequence[Outcome] | Died]:
        batch = self._lookups.pop(lookup)
        failed = isinstance(lookup.exception(), FetchError)  # the task will find out, and record it
        return "locate", batch, [None if failed else lookup.result()]

    def _result(self, ref: ray.ObjectRef) -> list[tuple[Stage, Batch, Sequence[Outcome] | Died]]:
        if self._validators.is_starting(ref):
            self._validators.started(ref)
            return []
        if ref in self._tasks:
            return [("adapt", self._tasks.pop(ref), self._outcome(ref))]
        batch, outcome = self._validators.ended(ref), self._outcome(ref)
        self._validators.freed(ref, alive=not isinstance(outcome, Died))
        return [("prove", batch, outcome)]

    def _outcome(self, ref: ray.ObjectRef) -> Sequence[Outcome] | Died:
        try:
            outcomes: Sequence[Outcome] = ray.get(ref)
        except RayTaskError as cause:
            raise RunError(one_line(cause.cause or cause)) from cause
        except RayError as cause:
            if not _cluster_lives():
                raise RunError(
                    f"the Ray cluster is gone ({one_line(cause)}); once there is one again, the "
                    f"same command goes on"
                ) from cause
            return Died(cause, node_lost=_tells_of_a_node(cause))
        return outcomes

    def cancel(self) -> None:
        """Stop what runs; what isn't recorded is done again by the next run."""
        with suppress(Exception):
            tasks = [*self._tasks]
            for ref in tasks:
                ray.cancel(ref)
            ray.wait(tasks, num_returns=len(tasks), timeout=5)


def _disk(batch: Batch) -> dict[str, float]:
    """What the batch takes of a node's disk, where nodes state what they have (``disk_mb``)."""
    if "disk_mb" not in ray.cluster_resources():
        return {}
    sizes = [work.located.source.bytes or 0 for work in batch.works if work.located]
    return {"disk_mb": math.ceil(max([0, *sizes]) / 1e6)}


def _tells_of_a_node(cause: RayError) -> bool:
    """Whether the process ended with its node."""
    text = str(cause).lower()
    return isinstance(cause, NodeDiedError) or ("node" in text and "died" in text)


def _cluster_lives() -> bool:
    try:
        return any(node["Alive"] for node in ray.nodes())
    except Exception:
        return False
