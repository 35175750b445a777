"""What Ray's workers do, for batches of models. The driver never imports torch: `pipeline` does."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from zooadapt.checkpoints import sources
from zooadapt.errors import RunError, one_line, redact
from zooadapt.types import Adapted, Job, Located, ModelEntry, ModelSummary, Request


@dataclass(frozen=True)
class TaskFunctions:
    """The functions of the tasks. Ray's workers import them, so they must be importable."""

    locate: Callable[[ModelEntry, Job], Located]
    """Looks a source up, in a thread of the driver."""
    make: Callable[[Request, Job, Located | None], ModelSummary]
    """For the task "adapt" where the cluster has no GPU: it does the work of "prove" too."""
    adapt: Callable[[Request, Job, Located | None], Adapted | ModelSummary]
    prove: Callable[[Adapted, Job], ModelSummary]


def import_all() -> None:
    """Import what the tasks need, which takes seconds."""
    import timm  # noqa: F401

    from zooadapt import pipeline  # noqa: F401


def _make(request: Request, job: Job, located: Located | None) -> ModelSummary:
    from zooadapt import pipeline

    return pipeline.make(request, job, located)


def _adapt(request: Request, job: Job, located: Located | None) -> Adapted | ModelSummary:
    from zooadapt import pipeline

    return pipeline.adapt(request, job, located)


def _prove(adapted: Adapted, job: Job) -> ModelSummary:
    from zooadapt import pipeline

    return pipeline.prove(adapted, job)


TASK_FUNCTIONS = TaskFunctions(sources.locate, _make, _adapt, _prove)


def adapt_all(
    adapt: Callable[..., Adapted | ModelSummary],
    batch: Sequence[tuple[Request, Located | None]],
    job: Job,
    cpus: int,
) -> list[Adapted | ModelSummary]:
    """Adapt the models of a batch one after the other, on a node with that many CPUs.

    After an outage there are no more results, as the other models would only wait for the same.
    """
    from zooadapt.proof import cores

    results = []
    with cores.working(cpus):
        for request, located in batch:
            with quoted(request.entry, job):
                results.append(adapt(request, job, located))
            if isinstance(results[-1], ModelSummary) and results[-1].outage:
                break
    return results


@contextmanager
def quoted(entry: ModelEntry, job: Job) -> Iterator[None]:
    """Re-raise with secrets redacted, because Ray stores and displays every exception.

    Any exception of the block becomes a RunError.
    """
    try:
        yield
    except Exception as cause:
        raise RunError(
            f"{entry.name} can't be recorded in {redact(job.dest)}: {one_line(cause)}"
        ) from None
