"""Measure how fast a GPU proves variants, or the CPUs of a machine that has no GPU.

    python jobs/proving.py --chans 1,4,8,25

Makes seeded random checkpoints and adapts them into a folder. Then proves what was adapted as the
job's validators do: in two processes to a GPU, of which one reads a model back while the other runs
its own. Ray isn't needed. Prints models a second and an hour, for how much of the time the GPU was
busy, and the seconds of a model beside those that --dry-run estimates. The script needs the extra
`test`, and on a GPU NVIDIA's command `nvidia-smi`.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from multiprocessing.synchronize import Barrier
from pathlib import Path

import click
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for the seeded checkpoints that the tests use

from tests.support import checkpoints, pipelines  # noqa: E402
from zooadapt import costs, pipeline  # noqa: E402
from zooadapt.job.options import parse_chans, parse_names  # noqa: E402
from zooadapt.proof import devices  # noqa: E402
from zooadapt.types import Adapted, Job, ModelSummary, Request  # noqa: E402

_all_started: Barrier


@click.command(help=__doc__)
@click.option(
    "--models",
    default=",".join(checkpoints.SIX),
    callback=parse_names,
    help="Tags of timm; by default six models of 1,915 MB together.",
)
@click.option("--chans", default="1,4,8,25", callback=parse_chans, show_default=True)
@click.option("--repeats", default=3, show_default=True, help="How often each model is proved.")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    show_default=f"{costs.PER_GPU} on a GPU, else the number of CPUs",
    help="Processes that prove.",
)
def main(
    models: tuple[str, ...], chans: tuple[int, ...], repeats: int, processes: int | None
) -> None:
    """Adapt the models, prove them, and print the figures."""
    device = devices.best()
    processes = processes or (os.cpu_count() or 1 if device.type == "cpu" else costs.PER_GPU)
    with tempfile.TemporaryDirectory() as name:
        job = Job("run", f"{name}/mirror", source_root=f"{name}/zoo")
        adapted = [_adapt(tag, chans, job) for tag in models]
        proved = _prove(adapted * repeats, job, processes, device)
    click.echo(_report(proved, len(chans), devices.name(device), processes))


def _adapt(tag: str, chans: Sequence[int], job: Job) -> Adapted:
    """Publish the variants of a seeded random checkpoint, none of them proved."""
    checkpoints.write_hub_repo(Path(str(job.source_root)), tag)
    adapted = pipeline.adapt(Request(pipelines.entry(tag), pipelines.counted(*chans)), job)
    if not isinstance(adapted, Adapted) or adapted.failures:
        raise click.ClickException(f"{tag} can't be adapted: {adapted.failures}")
    return adapted


@dataclass(frozen=True)
class Proved:
    """What proving took."""

    summaries: list[ModelSummary]
    """One for each time that a model was proved."""
    wall: float
    """Seconds, from when all processes had started until the last model was proved."""
    busy: float | None
    """The part of the time for which the GPU was busy; None without a GPU."""


def _prove(adapted: Sequence[Adapted], job: Job, processes: int, device: torch.device) -> Proved:
    """Prove all models, the largest first, in that many processes."""
    largest_first = sorted(adapted, key=lambda each: -each.checkpoint.bytes)
    context = multiprocessing.get_context("spawn")
    all_started = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, _start, (all_started, processes)) as pool:
        list(pool.map(_wait_for_all, range(processes)))
        with _watching(device) as percents:
            started = time.monotonic()
            summaries = list(pool.map(pipeline.prove, largest_first, repeat(job)))
            wall = time.monotonic() - started
    failed = [failure for summary in summaries for failure in summary.failures]
    if failed:
        raise click.ClickException(f"{len(failed)} variants failed; the first: {failed[0]}")
    return Proved(summaries, wall, statistics.mean(percents) / 100 if percents else None)


def _start(all_started: Barrier, processes: int) -> None:
    """Begin a process: as a validator, it has its device and its imports before the first model."""
    global _all_started
    _all_started = all_started
    device = devices.best()
    torch.zeros(1, device=device)
    if device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def _wait_for_all(number: int) -> None:
    """Wait until every process has started."""
    _all_started.wait()


@contextmanager
def _watching(device: torch.device) -> Iterator[list[float]]:
    """Within the block, ask five times a second for which percentage of the time a GPU is busy.

    The list holds the answers once the block has ended; [] for a CPU.
    """
    percents: list[float] = []
    if device.type != "cuda":
        yield percents
        return
    asked = "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"
    uuid = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    with subprocess.Popen(
        ["nvidia-smi", uuid, *asked], stdout=subprocess.PIPE, text=True
    ) as asking:
        try:
            yield percents
        finally:
            asking.terminate()
            percents += map(float, asking.communicate()[0].split())


def _report(proved: Proved, variants: int, device: str, processes: int) -> str:
    """The figures, a line each."""
    count, size = len(proved.summaries), sum(each.bytes_read for each in proved.summaries)
    estimate = costs.proof_seconds if device == "cpu" else costs.gpu_seconds
    estimated = sum(estimate(each.bytes_read, variants) for each in proved.summaries)
    cores = (os.cpu_count() or 1) if device == "cpu" else 1
    lines = [
        f"{count} models of {size / 1e6:,.0f} MB together, {variants} channel counts, proved on "
        f"{device} by {processes} processes in {proved.wall:.1f} s",
        f"models: {count / proved.wall:.2f} a second, {3600 * count / proved.wall:,.0f} an hour",
        f"a model: {proved.wall * cores / count:.2f} s of {'a core' if cores > 1 else 'it'}; "
        f"--dry-run estimates {estimated / count:.2f} s",
    ]
    if proved.busy is not None:
        operations = sum(costs.operations(each.bytes_read, variants) for each in proved.summaries)
        speed = operations / (proved.busy * proved.wall or 1)
        lines.append(
            f"GPU busy: {proved.busy:.0%} of the time, at {speed:.1e} operations a second; "
            f"--dry-run assumes {costs.GPU_SPEED:.0e}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
