"""The Ray actors that prove: started when something waits for one, let go when nothing does.

A validator gets a batch only once it is there. So where some of the GPUs that were asked for never
come, the batches go to the others.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from zooadapt import pipeline
from zooadapt.cluster.schedule import Batch
from zooadapt.errors import DeviceLost, RunError, one_line, redact
from zooadapt.types import Adapted, Job, ModelEntry, ModelSummary

IDLE = 60.0
"""Seconds after which a GPU that nothing waits for is given back."""
_ATTEMPTS = 5
"""Validators that end before they were there, one after the other, until the run is given up."""

Prove = Callable[[Adapted, Job], ModelSummary]


@contextmanager
def quoted(entry: ModelEntry, job: Job) -> Iterator[None]:
    """Let Ray, which keeps and shows every error, see no secret of one."""
    try:
        yield
    except Exception as cause:
        raise RunError(
            f"{entry.name} can't be recorded in {redact(job.dest)}: {one_line(cause)}"
        ) from None


@ray.remote(max_restarts=0)
class _Validator:
    """A process that keeps its device and its imports from one model to the next."""

    def __init__(self, function: Prove) -> None:
        pipeline.use_threads(1)  # without GPUs there may be a validator for each CPU
        self.function = function

    def ready(self) -> None:
        """Answers once the process is there."""

    def prove(self, batch: Sequence[Adapted], job: Job) -> list[ModelSummary]:
        results = []
        for adapted in batch:
            with quoted(adapted.entry, job):
                try:
                    results.append(self.function(adapted, job))
                except DeviceLost:
                    os._exit(1)  # at once: what is left of CUDA may hang. Another takes its place.
        return results


@dataclass(frozen=True)
class _Call:
    batch: Batch
    name: str


class Validators:
    """Those that are there or begin, and the batches that wait for one."""

    def __init__(self, prove: Prove, job: Job, options: Mapping[str, Any]) -> None:
        """`options` are the Ray resources of one."""
        self._prove, self._job, self._options = prove, job, options
        self._waiting: deque[_Call] = deque()
        self._starting: dict[ray.ObjectRef, tuple[float, Any]] = {}
        """Since when, the longest first."""
        self._busy: dict[ray.ObjectRef, tuple[Any, Batch]] = {}
        self._idle: list[tuple[float, Any]] = []
        """Since when, the longest first."""
        self._failed = 0

    @property
    def refs(self) -> list[ray.ObjectRef]:
        """What is to be waited for; see `is_starting`."""
        return [*self._starting, *self._busy]

    @property
    def are_awaited(self) -> bool:
        """Whether a batch waits for one."""
        return bool(self._waiting)

    def start(self) -> None:
        """Begin one more, without waiting."""
        remote = _Validator.options(**self._options)  # type: ignore[attr-defined]
        actor = remote.remote(self._prove)
        self._starting[actor.ready.remote()] = time.monotonic(), actor

    def prove(self, batch: Batch, name: str) -> None:
        """Have a batch proved as soon as a validator is there."""
        self._waiting.append(_Call(batch, name))
        self._dispatch()

    def is_starting(self, ref: ray.ObjectRef) -> bool:
        """Whether it tells that a validator is there, instead of the outcome of a batch."""
        return ref in self._starting

    def started(self, ref: ray.ObjectRef) -> None:
        """Take note that one is there, or ended before. Raises RunError if they all do."""
        _, actor = self._starting.pop(ref)
        try:
            ray.get(ref)
        except RayError as cause:
            self._failed += 1
            if self._failed >= _ATTEMPTS:
                raise RunError(
                    f"no process that validates can be started ({one_line(cause)}); see the "
                    f"nodes' logs, then the same command goes on"
                ) from cause
        else:
            self._failed = 0
            self._idle.append((time.monotonic(), actor))
        self._dispatch()

    def ended(self, ref: ray.ObjectRef) -> Batch:
        """The batch whose outcome `ref` has; its validator is `freed` once it is known to live."""
        return self._busy[ref][1]

    def freed(self, ref: ray.ObjectRef, alive: bool) -> None:
        """Let the validator of an ended batch take another, if it lives."""
        actor, _ = self._busy.pop(ref)
        if alive:
            self._idle.append((time.monotonic(), actor))
        self._dispatch()

    def release(self) -> None:
        """Give back what nothing waits for: GPUs idle for a while, and those that never came."""
        if self._waiting or not self._options.get("num_gpus"):
            return
        long_ago = time.monotonic() - IDLE
        while self._idle and self._idle[0][0] < long_ago:
            self._kill(self._idle.pop(0)[1])
        for ref, (since, actor) in [*self._starting.items()]:
            if since < long_ago:
                del self._starting[ref]
                self._kill(actor)

    def close(self) -> None:
        """End all of them."""
        actors = [actor for _, actor in (*self._starting.values(), *self._idle)]
        for actor in [*actors, *(actor for actor, _ in self._busy.values())]:
            self._kill(actor)

    def _dispatch(self) -> None:
        while self._waiting and self._idle:
            _, actor = self._idle.pop()
            call = self._waiting.popleft()
            adapted = [work.adapted for work in call.batch.works]
            ref = actor.prove.options(name=call.name).remote(adapted, self._job)
            self._busy[ref] = actor, call.batch
        while len(self._starting) < len(self._waiting):
            self.start()

    @staticmethod
    def _kill(actor: Any) -> None:
        with suppress(Exception):  # it may be gone, as may the cluster
            ray.kill(actor)
