"""The validators: Ray actors that prove on GPUs. They start when a batch waits.

A validator gets a batch only once its process runs. So if some of the GPUs that were asked for
never come, the batches go to validators on the other GPUs.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from zooadapt.cluster import nodes
from zooadapt.cluster.executor import Batch
from zooadapt.cluster.tasks import quoted
from zooadapt.costs import PER_GPU
from zooadapt.errors import DeviceLost, RunError, one_line
from zooadapt.types import Adapted, Job, ModelSummary

IDLE = 60.0
"""Seconds after which a GPU that no batch waits for is given back."""
_ATTEMPTS = 5
"""Give up the run after this many validators in a row ended before they were ready."""

Prove = Callable[[Adapted, Job], ModelSummary]


# No CPUs: two jobs whose validators hold the CPUs of the other's tasks would wait for ever.
@ray.remote(max_restarts=0, num_gpus=1 / PER_GPU, num_cpus=0)
class _Validator:
    """A Ray actor: a process that keeps its device and its imports from one model to the next."""

    def __init__(self, function: Prove) -> None:
        self.function = function

    def ready(self) -> str:
        """Return the node's id, once the process runs."""
        return nodes.own_id()

    def prove(self, batch: Sequence[Adapted], job: Job) -> tuple[str, list[ModelSummary]]:
        results = []
        for adapted in batch:
            with quoted(adapted.entry, job):
                try:
                    results.append(self.function(adapted, job))
                except DeviceLost:
                    os._exit(1)  # at once, as CUDA's own clean-up can hang; another replaces it
        return nodes.own_id(), results


@dataclass(frozen=True)
class _Started:
    """A validator whose process runs."""

    actor: Any
    node: str
    """The id of its node."""


@dataclass(frozen=True)
class _Call:
    """A batch that waits for a validator."""

    batch: Batch
    name: str
    """What Ray's tools show."""


class Validators:
    """All validators of a run: starting, busy or idle; and the batches that wait for one."""

    def __init__(self, prove: Prove, job: Job, avoided: Set[str] = frozenset()) -> None:
        """Nodes whose ids are in `avoided` get no batch."""
        self._prove, self._job, self._avoided = prove, job, avoided
        self._waiting: deque[_Call] = deque()
        self._starting: dict[ray.ObjectRef, tuple[float, Any]] = {}
        """When each actor began to start, and the actor; the longest waiting first."""
        self._busy: dict[ray.ObjectRef, tuple[_Started, Batch]] = {}
        """Each busy validator, and its batch."""
        self._idle: list[tuple[float, _Started]] = []
        """Since when each validator is idle; the longest idle first."""
        self._failed = 0
        """Starts that failed since the last that succeeded."""

    @property
    def refs(self) -> list[ray.ObjectRef]:
        """What to wait for: validators that start (see `is_starting`) and batches being proved."""
        return [*self._starting, *self._busy]

    @property
    def are_awaited(self) -> bool:
        """Whether a batch waits for a validator."""
        return bool(self._waiting)

    def start(self) -> None:
        """Start another validator, and return without waiting for it."""
        options = {"label_selector": nodes.others(self._avoided, {"GPU": 1 / PER_GPU})}
        actor = _Validator.options(**options).remote(self._prove)  # type: ignore[attr-defined]
        self._starting[actor.ready.remote()] = time.monotonic(), actor

    def prove(self, batch: Batch, name: str) -> None:
        """Prove a batch as soon as a validator is free. Ray's tools show `name`."""
        self._waiting.append(_Call(batch, name))
        self._dispatch()

    def is_starting(self, ref: ray.ObjectRef) -> bool:
        """Whether `ref` stands for a validator that starts, not for the outcomes of a batch."""
        return ref in self._starting

    def started(self, ref: ray.ObjectRef) -> None:
        """Note that a validator is ready, or ended early. Raises RunError if many in a row do."""
        _, actor = self._starting.pop(ref)
        try:
            node = ray.get(ref)
        except RayError as cause:
            self._failed += 1
            if self._failed >= _ATTEMPTS:
                raise RunError(
                    f"no validator can be started ({one_line(cause)}); see the nodes' logs, then "
                    f"run the same command again to resume"
                ) from cause
        else:
            self._failed = 0
            self._idle.append((time.monotonic(), _Started(actor, node)))
        self._dispatch()

    def ended(self, ref: ray.ObjectRef) -> Batch:
        """The batch whose outcomes `ref` stands for. Call `freed` for its validator next."""
        return self._busy[ref][1]

    def freed(self, ref: ray.ObjectRef, alive: bool) -> None:
        """Let the validator of a batch that ended take another one, if it is `alive`."""
        validator, _ = self._busy.pop(ref)
        if alive:
            self._idle.append((time.monotonic(), validator))
        self._dispatch()

    def release(self) -> None:
        """Give back GPUs that no batch waits for: those idle for a while, and those yet to come."""
        if self._waiting:
            return
        long_ago = time.monotonic() - IDLE
        while self._idle and self._idle[0][0] < long_ago:
            self._kill(self._idle.pop(0)[1].actor)
        for ref, (since, actor) in [*self._starting.items()]:
            if since < long_ago:
                del self._starting[ref]
                self._kill(actor)

    def close(self) -> None:
        """End all validators."""
        started = [*(each for _, each in self._idle), *(each for each, _ in self._busy.values())]
        for actor in [
            *(actor for _, actor in self._starting.values()),
            *(s.actor for s in started),
        ]:
            self._kill(actor)

    def _dispatch(self) -> None:
        while self._waiting and self._idle:
            _, validator = self._idle.pop()
            bad = validator.node in self._avoided
            if bad and nodes.others(self._avoided, {"GPU": 1 / PER_GPU}):
                self._kill(validator.actor)
                continue
            call = self._waiting.popleft()
            adapted = [work.adapted for work in call.batch.works]
            ref = validator.actor.prove.options(name=call.name).remote(adapted, self._job)
            self._busy[ref] = validator, call.batch
        while len(self._starting) < len(self._waiting):
            self.start()

    @staticmethod
    def _kill(actor: Any) -> None:
        with suppress(Exception):  # the actor, or the whole cluster, may be gone
            ray.kill(actor)
