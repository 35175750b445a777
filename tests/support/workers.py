"""A local Ray whose workers do what a test wants, and models that run on it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import ray

from tests.support.jobs import ROOT, ray_folder
from tests.support.pipelines import counted, entry
from zooadapt import pipeline
from zooadapt.cluster import ray_executor
from zooadapt.cluster.nodes import Workers
from zooadapt.types import Job, Located, ModelSummary, Request

KILLER = "test_vit.r160_in1k"


def eat_memory() -> None:
    """Run in every worker: make one model take more and more memory, up to 6 GB."""
    make = pipeline.make

    def make_or_eat_memory(request: Request, job: Job, located: Located | None) -> object:
        eaten = [b"x" * 10**8 for _ in range(60 * (request.entry.name == KILLER))]
        return make(request, job, located) if eaten is not None else None

    pipeline.make = make_or_eat_memory  # type: ignore[assignment]


@contextmanager
def ray_whose_workers(hook: Callable[[], None], gpus: int = 0, **config: Any) -> Iterator[None]:
    """A local Ray of two CPUs; `hook` runs in each of its workers, `config` is Ray's own.

    Its `gpus` are there in name only: validators that get one prove on the CPU.
    """
    with pytest.MonkeyPatch.context() as patch, ray_folder() as env:
        patch.setenv("RAY_TMPDIR", env["RAY_TMPDIR"])
        environment = {
            "worker_process_setup_hook": hook,
            "env_vars": {"PYTHONPATH": str(ROOT)},
        }
        ray.init(
            num_cpus=2,
            num_gpus=gpus,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env=environment,
            _system_config=config,
        )
        try:
            yield
        finally:
            ray.shutdown()


def run(job: Job, *names: str) -> dict[str, ModelSummary]:
    """Run timm's models of these names; returns their summaries."""
    watched = Watched()
    requests = [Request(entry(name), counted(4)) for name in names]
    with ExitStack() as ending:
        ray_executor.run(requests, job, Workers(), watched, ending)
    return {summary.entry.name: summary for summary in watched.summaries}


class Watched:
    """A watcher that keeps the summaries."""

    def __init__(self) -> None:
        self.summaries: list[ModelSummary] = []

    def located(self, request: Request, size: int | None) -> None:
        pass

    def ended(self, summary: ModelSummary) -> None:
        self.summaries.append(summary)

    def tick(self) -> None:
        pass
