"""Stages that do nothing, to measure what carries stages out. Importable, as the real ones are."""

from zooadapt.records import (
    Adapted,
    Checkpoint,
    Job,
    Located,
    ModelEntry,
    ModelFacts,
    ModelSummary,
    Request,
    Source,
)
from zooadapt.targets import Bands


def locate(entry: ModelEntry, job: Job) -> Located:
    return Located(Source("hf://x", "commit=0", 10**8, ""), None, "")


def locate_small(entry: ModelEntry, job: Job) -> Located:
    return Located(Source("hf://x", "commit=0", 10**6, ""), None, "")


def adapt(request: Request, job: Job, located: Located | None) -> Adapted:
    facts = ModelFacts(Bands.counted(3), 1, 1, (), (), 0, "")
    return Adapted(request.entry, Checkpoint("", "", "", "", 0), facts, (), (), "", (), (), {})


def prove(adapted: Adapted, job: Job) -> ModelSummary:
    return summary(Request(adapted.entry, ()))


def summary(request: Request) -> ModelSummary:
    return ModelSummary(request.entry, (), (), 0, 0, {}, "")
