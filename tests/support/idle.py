"""Stages that do nothing, to measure the code that runs stages; importable like the real ones."""

from jobs.measure.simulation import adapted, summary
from zooadapt.types import Adapted, Job, Located, ModelEntry, ModelSummary, Request, Source


def locate(entry: ModelEntry, job: Job) -> Located:
    return Located(Source("hf://x", "commit=0", 10**8, ""), None, "")


def locate_small(entry: ModelEntry, job: Job) -> Located:
    return Located(Source("hf://x", "commit=0", 10**6, ""), None, "")


def make(request: Request, job: Job, located: Located | None) -> ModelSummary:
    return summary(request)


def adapt(request: Request, job: Job, located: Located | None) -> Adapted:
    return adapted(request.entry)


def prove(adapted: Adapted, job: Job) -> ModelSummary:
    return summary(Request(adapted.entry, ()))
