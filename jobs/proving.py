"""Measure how fast this machine proves variants, on its first GPU or else on its CPUs.

    python jobs/proving.py --chans 1,4,8,25

Makes seeded random checkpoints and adapts them into a folder. Then the script proves what was
adapted, without Ray. On a GPU it does so as the job's validators do: in two processes, so that one
can read a model back while the other runs one. Prints models a second and an hour. Of a GPU it also
prints for which part of the time it was busy, and what --dry-run estimates. The script needs the
extra `test`, and five times the room that the checkpoints take.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import click
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for the seeded checkpoints that the tests use

from tests.support import checkpoints, pipelines  # noqa: E402
from zooadapt import costs, pipeline  # noqa: E402
from zooadapt.cli.main import script  # noqa: E402
from zooadapt.errors import DeviceLost  # noqa: E402
from zooadapt.job import plan  # noqa: E402
from zooadapt.job.options import parse_chans, parse_names  # noqa: E402
from zooadapt.proof import devices  # noqa: E402
from zooadapt.types import Adapted, Job, ModelEntry, ModelSummary, Request  # noqa: E402
from zooadapt.zoos import registry  # noqa: E402

_all_started: Barrier


@click.command(help=__doc__)
@click.option(
    "--models",
    default=",".join(checkpoints.SIX),
    callback=parse_names,
    help="Globs over timm's models; by default six of 1,915 MB together.",
)
@click.option("--chans", default="1,4,8,25", callback=parse_chans, show_default=True)
@click.option(
    "--repeats",
    default=3,
    type=click.IntRange(min=1),
    show_default=True,
    help="How often each model is proved.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    show_default=f"{costs.PER_GPU} on a GPU, else the number of CPUs",
    help="Processes that prove.",
)
@click.option("--folder", type=Path, help="The folder to work in; by default a temporary one.")
def main(
    models: tuple[str, ...], chans: tuple[int, ...], repeats: int, processes: int | None,
    folder: Path | None,
) -> None:  # fmt: skip
    """Adapt the models, prove them, and print the figures."""
    entries = plan.matching(registry.list_models("timm"), models, "--models")
    device = devices.best()
    processes = processes or (os.cpu_count() or 1 if device.type == "cpu" else costs.PER_GPU)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        job = Job("run", f"{name}/mirror", source_root=f"{name}/zoo")
        adapted = [_adapt(entry, chans, job) for entry in entries]
        proved = _prove(adapted * repeats, job, processes, device)
    size = sum(each.checkpoint.bytes for each in adapted)
    click.echo(
        f"{len(adapted)} models of {size / 1e6:,.0f} MB together, {len(chans)} channel counts, "
        f"proved {repeats} times on {devices.name(device)} by {processes} processes"
    )
    click.echo(_report(proved, len(chans), device))


def _adapt(entry: ModelEntry, chans: Sequence[int], job: Job) -> Adapted:
    """Publish the variants of a seeded random checkpoint, none of them proved."""
    checkpoints.write_hub_repo(Path(str(job.source_root)), entry.name)
    adapted = pipeline.adapt(Request(entry, pipelines.counted(*chans)), job)
    if not isinstance(adapted, Adapted) or adapted.failures:
        raise click.ClickException(f"{entry.name} can't be adapted: {adapted.failures}")
    return adapted


@dataclass(frozen=True)
class Proved:
    """What proving took."""

    summaries: list[ModelSummary]
    """One for each time that a model was proved."""
    wall: float
    """Seconds, from when all processes had started until the last model was proved."""
    busy: float | None
    """The part of the time for which the GPU was busy; None where that isn't known."""


def _prove(adapted: Sequence[Adapted], job: Job, processes: int, device: torch.device) -> Proved:
    """Prove all models, the largest first, in that many processes."""
    largest_first = sorted(adapted, key=lambda each: -each.checkpoint.bytes)
    context = multiprocessing.get_context("spawn")
    all_started = context.Barrier(processes)
    try:
        with ProcessPoolExecutor(processes, context, _start, (all_started,)) as pool:
            list(pool.map(_wait_for_all, range(processes)))
            with _watching(device) as percents:
                began = monotonic()
                summaries = list(pool.map(_prove_one, largest_first, repeat(job)))
                wall = monotonic() - began
    except BrokenProcessPool as cause:
        raise click.ClickException(
            "a process was killed, perhaps because memory ran out, or CUDA had an error from which "
            "it doesn't recover; try it with fewer --processes"
        ) from cause
    failed = [failure for summary in summaries for failure in summary.failures]
    if failed:
        raise click.ClickException(f"{len(failed)} variants failed; the first: {failed[0]}")
    return Proved(summaries, wall, statistics.mean(percents) / 100 if percents else None)


def _start(all_started: Barrier) -> None:
    """Begin a process: start its device, so that the start isn't timed. One thread, as in Ray."""
    global _all_started
    _all_started = all_started
    torch.set_num_threads(1)
    image = torch.zeros(1, 3, 8, 8, device=devices.best())
    torch.nn.functional.conv2d(image, image).reshape(1, 1) @ image[0, 0, :1, :1]


def _wait_for_all(_: int) -> None:
    """Wait until every process has started."""
    _all_started.wait()


def _prove_one(adapted: Adapted, job: Job) -> ModelSummary:
    try:
        return pipeline.prove(adapted, job)
    except DeviceLost:
        os._exit(1)  # at once, as CUDA's own clean-up can hang


@contextmanager
def _watching(device: torch.device) -> Iterator[list[float]]:
    """Within the block, ask NVIDIA's command how busy the GPU is, in percent, twice a second.

    The list holds the answers once the block has ended: none for a CPU, or without the command.
    """
    percents: list[float] = []
    if device.type != "cuda":
        yield percents
        return
    uuid, ended = torch.cuda.get_device_properties(device).uuid, Event()

    def watch() -> None:
        while not ended.wait(0.5):
            percents.extend(_percent(str(uuid)))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield percents
    finally:
        ended.set()
        thread.join()


def _percent(uuid: str) -> list[float]:
    """For which percentage of the last moment a GPU was busy; [] where that can't be had.

    https://docs.nvidia.com/deploy/nvidia-smi/ (utilization.gpu)
    """
    asked = f"--id=GPU-{uuid}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"
    try:
        done = subprocess.run(["nvidia-smi", *asked], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return [float(word) for word in done.stdout.split() if word.isdigit()]


def _report(proved: Proved, variants: int, device: torch.device) -> str:
    """The figures, a line each."""
    count, wall = len(proved.summaries), proved.wall
    lines = [f"models: {count / wall:.2f} a second, {3600 * count / wall:,.0f} an hour"]
    if device.type == "cpu":
        return lines[0]
    sizes = [summary.bytes_read for summary in proved.summaries]
    estimated = sum(costs.gpu_seconds(size, variants) for size in sizes) / count
    lines.append(
        f"a model: {wall / count:.2f} s of the GPU, in which it is also read back; --dry-run "
        f"estimates {estimated:.2f} s"
    )
    if not proved.busy:
        return "\n".join([*lines, "GPU busy: unknown, as nvidia-smi doesn't say"])
    speed = sum(costs.operations(size, variants) for size in sizes) / (proved.busy * wall)
    lines.append(
        f"GPU busy: {proved.busy:.0%} of the time, with all that runs on it; --dry-run's formula "
        f"would fit with {speed:.1e} operations a second instead of {costs.GPU_SPEED:.0e}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    script(main)
