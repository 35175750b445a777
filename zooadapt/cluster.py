"""`pipeline` for many models on Ray. Knows nothing of tensors.

Tasks on CPUs fetch, adapt and publish; actors prove, one to a GPU where the cluster has GPUs. Only
small records travel between them. A process that dies is replaced and its model tried again; a
model that kills its process every time becomes a failure.
"""

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from zooadapt import pipeline
from zooadapt.errors import RunError, StageError, WorkerDied, one_line, redact
from zooadapt.records import Adapted, Job, ModelSummary, Request

_RETRIES = 2
"""How often a model is tried again after its process died."""


@ray.remote(num_cpus=1, max_retries=0)  # Ray itself would try one that runs out of memory for ever
def _adapt(request: Request, job: Job) -> Adapted | ModelSummary:
    return pipeline.adapt(request, job)


@ray.remote(max_restarts=0)
class _Validator:
    """A process that keeps its device and its imports from one model to the next."""

    def prove(self, adapted: Adapted, job: Job) -> ModelSummary:
        return pipeline.prove(adapted, job)


@dataclass(frozen=True)
class Workers:
    """How the cluster's resources are shared between the two kinds of work."""

    gpus: bool
    validators: int
    adapting: int
    """Tasks in flight at most, queued ones included."""

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
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    if gpus:
        return Workers(True, gpus, adapting=cpus + 1)
    validators = max(1, cpus // 2)
    return Workers(False, validators, adapting=max(1, cpus - validators))


def run(
    requests: Iterable[Request],
    job: Job,
    division: Workers,
    ended: Callable[[ModelSummary], None],
) -> None:
    """Adapt and prove every request; `ended` hears of each model once, when it is recorded.

    Raises RunError where the mirror can't be written to. On KeyboardInterrupt what runs is
    cancelled and what is recorded stays.
    """
    loop = _Loop(deque(map(_Work, requests)), job, division, ended)
    try:
        loop.run()
    except BaseException:
        loop.cancel()
        raise


@dataclass
class _Work:
    """One model on its way."""

    request: Request
    adapted: Adapted | None = None
    """What to prove; None until it is adapted."""
    deaths: int = 0
    """How many processes died of it."""


@dataclass
class _Loop:
    """The driver's state: every model that hasn't ended is in exactly one of the three places."""

    waiting: deque[_Work]
    job: Job
    division: Workers
    ended: Callable[[ModelSummary], None]
    adapted: deque[_Work] = field(default_factory=deque)
    running: dict[ray.ObjectRef, tuple[_Work, Any]] = field(default_factory=dict)
    """With the validator, or None for a task."""
    idle: list[Any] = field(default_factory=list)
    """Validators."""

    def run(self) -> None:
        """Until every model has ended."""
        self.idle = [self._validator() for _ in range(self.division.validators)]
        while self.waiting or self.adapted or self.running:
            self._submit()
            done, _ = ray.wait([*self.running])
            for ref in done:
                self._take(ref, *self.running.pop(ref))

    def _validator(self) -> Any:
        return _Validator.options(**self.division.options).remote()  # type: ignore[attr-defined]

    def _submit(self) -> None:
        """Keep every worker busy, and no more published than the validators keep up with."""
        while self.adapted and self.idle:
            work, validator = self.adapted.popleft(), self.idle.pop()
            named = validator.prove.options(name=f"prove {work.request.entry.name}")
            self.running[named.remote(work.adapted, self.job)] = work, validator
        adapting = sum(validator is None for _, validator in self.running.values())
        room = self.division.adapting - adapting - len(self.adapted)
        for _ in range(min(room, len(self.waiting))):
            work = self.waiting.popleft()
            named = _adapt.options(name=f"adapt {work.request.entry.name}")
            self.running[named.remote(work.request, self.job)] = work, None

    def _take(self, ref: ray.ObjectRef, work: _Work, validator: Any) -> None:
        try:
            result: Adapted | ModelSummary = ray.get(ref)
        except RayTaskError as cause:
            raise RunError(
                f"{work.request.entry.name} can't be recorded in {redact(self.job.dest)}: "
                f"{one_line(cause.cause or cause)}"
            ) from cause
        except RayError as cause:
            self._died(work, validator, cause)
            return
        if validator is not None:
            self.idle.append(validator)
        if isinstance(result, Adapted):
            self.adapted.append(replace(work, adapted=result))
        else:
            self.ended(result)

    def _died(self, work: _Work, validator: Any, cause: RayError) -> None:
        """Try the model again in another process, but not for ever."""
        if not _cluster_lives():
            raise RunError(
                f"the Ray cluster is gone ({one_line(cause)}); once there is one again, the same "
                f"command goes on"
            ) from cause
        if validator is not None:
            self.idle.append(self._validator())
        work = replace(work, deaths=work.deaths + 1)
        if work.deaths > _RETRIES:
            self.ended(pipeline.fail(work.request, self.job, _death(work, cause)))
        elif work.adapted:
            self.adapted.append(work)
        else:
            self.waiting.append(work)

    def cancel(self) -> None:
        """Stop what runs; what isn't recorded is done again by the next run."""
        with suppress(Exception):
            tasks = [ref for ref, (_, validator) in self.running.items() if validator is None]
            for ref in tasks:
                ray.cancel(ref)
            ray.wait(tasks, num_returns=len(tasks), timeout=5)


def _cluster_lives() -> bool:
    try:
        return any(node["Alive"] for node in ray.nodes())
    except Exception:
        return False


def _death(work: _Work, cause: RayError) -> StageError:
    who = "validating" if work.adapted else "adapting"
    error = WorkerDied(
        f"the process {who} it died {work.deaths} times, perhaps for want of memory; give the "
        f"nodes more, then --retry-failed"
    )
    error.__cause__ = cause
    return error
