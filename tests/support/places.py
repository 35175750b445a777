"""Stages that note their node and wait for a file before they end; importable, as the real ones."""

import time
from dataclasses import replace
from pathlib import Path

import ray

from tests.support import idle
from zooadapt.types import Adapted, Job, Located, ModelEntry, ModelSummary, Outage, Request


def locate(entry: ModelEntry, job: Job) -> Located:
    return idle.locate(entry, job)


def make(request: Request, job: Job, located: Located | None) -> ModelSummary:
    outage = _begin_to_adapt(request, job)
    return outage or replace(idle.make(request, job, located), made=("4",))


def adapt(request: Request, job: Job, located: Located | None) -> Adapted | ModelSummary:
    outage = _begin_to_adapt(request, job)
    return outage or idle.adapt(request, job, located)


def _begin_to_adapt(request: Request, job: Job) -> ModelSummary | None:
    """Note the node; a node that a file calls cut off meets an outage, which is returned."""
    node = _note(job, "adapt", request.entry)
    if not (Path(job.dest) / f"{node}-is-cut-off").exists():
        return None
    outage = Outage("the source", "download", "no route to host")
    return ModelSummary(request.entry, (), (), 0, 0, {}, "", ("4",), outage)


def prove(adapted: Adapted, job: Job) -> ModelSummary:
    _note(job, "prove", adapted.entry)
    return idle.prove(adapted, job)


def _note(job: Job, stage: str, entry: ModelEntry) -> str:
    """Write a file that names the node below the job's `dest`; then wait for leave to end.

    Returns the node's id. A stage takes at least 0.05 s: if stages ended at once, Ray would give
    nearly all of them to one node.
    """
    folder = Path(job.dest)
    node = str(ray.get_runtime_context().get_node_id())
    (folder / f"{stage}-{entry.name}-{node}-{time.monotonic_ns()}").touch()
    leave = [folder / f"{what}-may-end" for what in (stage, f"{stage}-{entry.name}")]
    may_end = False
    while not may_end:
        time.sleep(0.05)
        may_end = any(file.exists() for file in leave)
    return node
