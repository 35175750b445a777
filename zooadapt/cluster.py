"""`pipeline` for many models on Ray. Knows nothing of tensors.

Tasks on CPUs fetch, adapt and publish; actors prove, one to a GPU where the cluster has GPUs. Only
small records travel between them. A process that dies is replaced; `schedule` says what then.
"""

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from zooadapt import pipeline, sources
from zooadapt.errors import DeviceLost, FetchError, RunError, StageError, one_line, redact
from zooadapt.records import Adapted, Job, Located, ModelEntry, ModelSummary, Request
from zooadapt.schedule import Batch, Capacity, Died, Outcome, Schedule, Stage

_LOOKUPS = 16
"""Sources asked at once."""
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
        with _quoted(request.entry, job):
            results.append(stage(request, job, located))
    return results


@ray.remote(max_restarts=0)
class _Validator:
    """A process that keeps its device and its imports from one model to the next."""

    def __init__(self, stage: Callable[[Adapted, Job], ModelSummary]) -> None:
        pipeline.use_threads(1)  # without GPUs there may be a validator for each CPU
        self.stage = stage

    def prove(self, batch: Sequence[Adapted], job: Job) -> list[ModelSummary]:
        results = []
        for adapted in batch:
            with _quoted(adapted.entry, job):
                try:
                    results.append(self.stage(adapted, job))
                except DeviceLost:
                    os._exit(1)  # at once: what is left of CUDA may hang. Another takes its place.
        return results


@contextmanager
def _quoted(entry: ModelEntry, job: Job) -> Iterator[None]:
    """Let Ray, which keeps and shows every error, see no secret of one."""
    try:
        yield
    except Exception as cause:
        raise RunError(
            f"{entry.name} can't be recorded in {redact(job.dest)}: {one_line(cause)}"
        ) from None


@dataclass(frozen=True)
class Workers:
    """How the cluster's resources are shared between the two kinds of work."""

    gpus: int
    cpus: int

    @property
    def validators(self) -> int:
        """One for each GPU; without any, as many as there is work for, up to one for each CPU."""
        return self.gpus or self.cpus

    @property
    def at_once(self) -> int:
        """Models worked on: one more than there are CPUs, as adapting often waits for a store."""
        return self.cpus + 1 + self.gpus

    @property
    def options(self) -> dict[str, Any]:
        """The Ray resources of one validator."""
        # Never CPUs: two jobs that hold what the other's tasks wait for would wait for ever.
        if self.gpus:
            return {"num_gpus": 1, "num_cpus": 0}
        return {"num_cpus": 0, "scheduling_strategy": "SPREAD"}

    def __str__(self) -> str:
        plural = "s" * (self.validators > 1)
        if self.gpus:
            return f"validating on {self.validators} GPU worker{plural}"
        return f"the cluster has no GPU: validating on {self.validators} CPU worker{plural}"


def workers() -> Workers:
    """The division that fits the cluster as it is now."""
    resources = ray.cluster_resources()
    return Workers(int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1))))


def run(
    requests: Sequence[Request],
    job: Job,
    division: Workers,
    ended: Callable[[ModelSummary], None],
) -> None:
    """Adapt and prove every request; `ended` hears of each model once, when it is recorded.

    Raises RunError where the mirror can't be written to. On KeyboardInterrupt what runs is
    cancelled and what is recorded stays.
    """
    given_up = partial(_fail, job)
    with RayExecutor(job, division, named=len(requests) <= _NAMED) as executor:
        Schedule(iter(requests), executor, ended, given_up).run()


def _fail(job: Job, request: Request, error: StageError) -> ModelSummary:
    return pipeline.fail(request, job, error)


class RayExecutor:
    """Looks sources up in threads of this process, adapts in Ray tasks, proves in Ray actors."""

    def __init__(
        self, job: Job, division: Workers, stages: Stages = STAGES, named: bool = True
    ) -> None:
        """Starts validators, as that takes a while; without GPUs the rest when they have work.

        Where `named`, Ray's tools show which models a task is of.
        """
        self._named = named
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        memory = [int(resources.get("memory", 0)) for resources in nodes]
        self.capacity = Capacity(
            division.validators, division.cpus + 1, division.at_once, sum(memory), max(memory)
        )
        self._job, self._division, self._stages = job, division, stages
        self._pool = ThreadPoolExecutor(_LOOKUPS)
        self._lookups: dict[Future[Located], Batch] = {}
        self._running: dict[ray.ObjectRef, tuple[Batch, Any]] = {}
        """With the validator, or None for a task."""
        self._idle = [self._validator() for _ in range(division.gpus or 1)]

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _validator(self) -> Any:
        remote = _Validator.options(**self._division.options)  # type: ignore[attr-defined]
        return remote.remote(self._stages.prove)

    def start(self, stage: Stage, batch: Batch) -> None:
        """Begin, without waiting."""
        name = self._name(stage, batch)
        if stage == "locate":
            entry = batch.works[0].request.entry
            self._lookups[self._pool.submit(self._stages.locate, entry, self._job)] = batch
        elif stage == "adapt":
            task = _adapt.options(name=name, memory=batch.memory)
            calls = [(work.request, work.located) for work in batch.works]
            self._running[task.remote(self._stages.adapt, calls, self._job)] = batch, None
        else:
            validator = self._idle.pop() if self._idle else self._validator()
            proof = validator.prove.options(name=name)
            adapted = [work.adapted for work in batch.works]
            self._running[proof.remote(adapted, self._job)] = batch, validator

    def _name(self, stage: Stage, batch: Batch) -> str:
        if not self._named:
            return stage
        first, more = batch.works[0].request.entry.name, len(batch.works) - 1
        return f"{stage} {first}" + (f" and {more} more" if more else "")

    def ended(self) -> list[tuple[Stage, Batch, Sequence[Outcome] | Died]]:
        """Wait until something that was started ends; all that has ended since the last call."""
        while True:
            found = [self._found(lookup) for lookup in [*self._lookups] if lookup.done()]
            results = [self._result(ref) for ref in self._done(wait=not found)]
            if found or results:
                return found + results

    def _done(self, wait: bool) -> list[ray.ObjectRef]:
        """The tasks that ended; wait for one, or for a look-up."""
        refs = [*self._running]
        if not refs:
            if wait:
                concurrent.futures.wait(self._lookups, return_when=FIRST_COMPLETED)
            return []
        done: list[ray.ObjectRef]
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not done and wait:
            done, _ = ray.wait(refs, timeout=_LOOK_SECONDS if self._lookups else None)
        return done

    def _found(self, lookup: Future[Located]) -> tuple[Stage, Batch, Sequence[Outcome]]:
        batch = self._lookups.pop(lookup)
        failed = isinstance(lookup.exception(), FetchError)  # the task will find out, and record it
        return "locate", batch, [None if failed else lookup.result()]

    def _result(self, ref: ray.ObjectRef) -> tuple[Stage, Batch, Sequence[Outcome] | Died]:
        batch, validator = self._running.pop(ref)
        stage: Stage = "prove" if validator else "adapt"
        try:
            outcome: Sequence[Outcome] | Died = ray.get(ref)
        except RayTaskError as cause:
            raise RunError(one_line(cause.cause or cause)) from cause
        except RayError as cause:
            if not _cluster_lives():
                raise RunError(
                    f"the Ray cluster is gone ({one_line(cause)}); once there is one again, the "
                    f"same command goes on"
                ) from cause
            outcome = Died(cause)
        if validator:
            self._idle.append(self._validator() if isinstance(outcome, Died) else validator)
        return stage, batch, outcome

    def cancel(self) -> None:
        """Stop what runs; what isn't recorded is done again by the next run."""
        with suppress(Exception):
            tasks = [ref for ref, (_, validator) in self._running.items() if validator is None]
            for ref in tasks:
                ray.cancel(ref)
            ray.wait(tasks, num_returns=len(tasks), timeout=5)


def _cluster_lives() -> bool:
    try:
        return any(node["Alive"] for node in ray.nodes())
    except Exception:
        return False
