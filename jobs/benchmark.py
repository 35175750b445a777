"""Compare the job with a loop over timm, and with the least work that any such job must do.

    python jobs/benchmark.py --rounds 3

Makes seeded random checkpoints, then times three programs in turn, each in a process of its own.
Each writes to a folder and to S3 (SeaweedFS on this machine):

- loop: for each model and channel count timm.create_model(pretrained=True, in_chans=N) from the
  local file, a forward pass, safetensors' save_file, upload with s3fs;
- floor: read each checkpoint once, write it once to the destination, and run it once;
- zooadapt: python jobs/adapt_zoo.py, with all proofs and hashes.

A forward pass takes two images, as in a proof. The start of Python and Ray isn't counted: loop and
floor are timed after all imports, and from zooadapt's time a job of one tiny model is subtracted.
One more run counts the bytes through the sockets and the memory of the workers. Last, the driver is
measured alone. The script needs the extra `test`.
"""

import itertools
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import fsspec
import ray
import safetensors.torch
import timm
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for the loopback servers that the tests use

import zooadapt  # noqa: E402
from jobs.measure import simulation  # noqa: E402
from tests.support import (  # noqa: E402
    checkpoints,
    hub,
    idle,
    jobs,
    pipelines,
    proxy,
    seaweed,
    web,
)
from zooadapt.cluster import ray_executor, schedule  # noqa: E402
from zooadapt.cluster.nodes import Workers  # noqa: E402
from zooadapt.job import plan  # noqa: E402
from zooadapt.job.options import Config, parse_chans, parse_names  # noqa: E402
from zooadapt.types import Job, ModelEntry, ModelSummary, Request  # noqa: E402
from zooadapt.zoos.timm import recompute_buffers  # noqa: E402

MODELS = (
    "resnet50.a1_in1k", "convnext_tiny.fb_in1k", "efficientnet_b0.ra_in1k",
    "swin_tiny_patch4_window7_224.ms_in1k", "vit_base_patch16_224.augreg_in1k",
    "vit_large_patch16_224.augreg_in21k_ft_in1k",
)  # fmt: skip
TINY = "test_vit.r160_in1k"
MB = 1e6


@click.group(help=__doc__, invoke_without_command=True)
@click.option("--models", default=",".join(MODELS), callback=parse_names, help="Tags of timm.")
@click.option("--chans", default="1,4,8,25", callback=parse_chans, show_default=True)
@click.option("--many", default="1,2,4,5,8,12,13,25", callback=parse_chans, show_default=True,
              help="Channel counts to compare with a single count.")  # fmt: skip
@click.option("--rounds", default=3, show_default=True, help="Timed rounds; 0 skips the timing.")
@click.option("--entries", default=1_000_000, show_default=True, help="Models for the driver.")
@click.option("--folder", type=Path, help="The folder to work in; by default a temporary one.")
@click.pass_context
def main(
    context: click.Context, models: tuple[str, ...], chans: tuple[int, ...], many: tuple[int, ...],
    rounds: int, entries: int, folder: Path | None,
) -> None:  # fmt: skip
    """Run all measurements and print the figures."""
    if context.invoked_subcommand:
        return
    with tempfile.TemporaryDirectory(dir=folder) as name, jobs.ray_folder() as env:
        work = Path(name)
        size = _make_checkpoints(work / "zoo", [*models, TINY])
        bench = Bench(work, models, env)
        click.echo(f"{len(models)} models, {size / MB:,.0f} MB, {os.cpu_count()} CPUs")
        if rounds:
            _compare(bench, chans, many, rounds)
        _count(bench, chans, size)
        _drive(bench, entries)


@dataclass(frozen=True)
class Bench:
    """What every timed run needs."""

    work: Path
    models: tuple[str, ...]
    env: dict[str, str]

    def run(self, role: str, chans: Sequence[int], s3: bool) -> float:
        """Seconds of one run to an empty destination. The destination is removed afterwards."""
        with tempfile.TemporaryDirectory(dir=self.work) as name:
            if not s3:
                return ROLES[role](self, chans, f"{name}/mirror")
            with seaweed.running(Path(name)) as server:
                bench = replace(self, env={**self.env, **server.env})
                return ROLES[role](bench, chans, f"s3://{seaweed.BUCKET}/mirror")

    def job(self, chans: Sequence[int], dest: str, models: Sequence[str], **env: str) -> float:
        """Seconds of the job, from its start to its end."""
        started = time.monotonic()
        command = [
            *jobs.JOB,
            "--chans",
            _joined(chans),
            "--dest",
            dest,
            "--models",
            _joined(models),
        ]
        if "HF_ENDPOINT" not in env:
            command += ["--source-root", str(self.work / "zoo")]
        _checked(command, {**self.env, **env})
        return time.monotonic() - started

    def script(self, role: str, chans: Sequence[int], dest: str) -> float:
        """Seconds that a role implemented in this file measures and prints."""
        command = [sys.executable, __file__, role, str(self.work / "zoo"), dest, _joined(chans)]
        return float(_checked([*command, *self.models], self.env).split()[-1])


ROLES: dict[str, Callable[[Bench, Sequence[int], str], float]] = {
    "start": lambda bench, chans, dest: bench.job([1], dest, [TINY]),
    "floor": lambda bench, chans, dest: bench.script("floor", chans, dest),
    "loop": lambda bench, chans, dest: bench.script("loop", chans, dest),
    "zooadapt": lambda bench, chans, dest: bench.job(chans, dest, bench.models),
}


def _checked(command: Sequence[str], env: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _joined(values: Sequence[object]) -> str:
    return ",".join(map(str, values))


def _make_checkpoints(root: Path, tags: Sequence[str]) -> int:
    """Write the checkpoints. Returns their bytes, without those of the last, tiny one."""
    sizes = [checkpoints.write_hub_repo(root, tag).stat().st_size for tag in tags]
    return sum(sizes[:-1])


@main.command("load")
@click.option("--model", default="vit_base_patch16_224.augreg_in1k", show_default=True)
@click.option("--chans", default=8, show_default=True)
@click.option("--rounds", default=7, show_default=True)
def load(model: str, chans: int, rounds: int) -> None:
    """Compare loading a pulled variant with timm.create_model(pretrained=True, in_chans=N)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = checkpoints.write_hub_repo(folder / "zoo", model)
        pipelines.run(
            pipelines.entry(model), pipelines.counted(chans),
            folder / "zoo", folder / "mirror",
        )  # fmt: skip
        with web.serving_files(folder / "mirror") as url:

            def ours() -> torch.nn.Module:
                mirror = zooadapt.open_mirror(url, cache_dir=folder / "cache")
                return mirror.load(model, chans, derive=False)

            def timms() -> torch.nn.Module:
                overlay = {"file": str(file)}
                found: torch.nn.Module = timm.create_model(
                    model, pretrained=True, in_chans=chans, pretrained_cfg_overlay=overlay
                )
                return found.eval()

            theirs, same = timms().state_dict(), ours().state_dict()  # this also warms the cache
            equal = all(torch.equal(same[key], theirs[key]) for key in theirs)
            pairs = [(_seconds(timms), _seconds(ours)) for _ in range(rounds)]
    click.echo(f"{model}, {chans} channels; bit-equal: {equal}")
    for which, times in zip(("timm", "zooadapt"), zip(*pairs, strict=True), strict=True):
        click.echo(f"{which:35s} {statistics.median(times):.2f} s")
    _ratio("timm / zooadapt", *zip(*pairs, strict=True))


def _seconds(do: Callable[[], object]) -> float:
    started = time.monotonic()
    do()
    return time.monotonic() - started


@main.command("floor", hidden=True)
@click.argument("zoo", type=Path)
@click.argument("dest")
@click.argument("chans")
@click.argument("models", nargs=-1)
def floor(zoo: Path, dest: str, chans: str, models: tuple[str, ...]) -> None:
    """Read each checkpoint once, write it once, and run it once."""
    started = time.monotonic()
    filesystem, path = fsspec.core.url_to_fs(dest)
    filesystem.makedirs(path, exist_ok=True)
    for tag in models:
        filesystem.put(str(_file(zoo, tag)), f"{path}/{tag}.safetensors")
        with torch.device("meta"):
            model = timm.create_model(tag).eval()
        model.load_state_dict(safetensors.torch.load_file(_file(zoo, tag)), assign=True)
        recompute_buffers(model)
        _forward(model, 3)
    click.echo(time.monotonic() - started)


@main.command("loop", hidden=True)
@click.argument("zoo", type=Path)
@click.argument("dest")
@click.argument("chans", callback=parse_chans)
@click.argument("models", nargs=-1)
def loop(zoo: Path, dest: str, chans: tuple[int, ...], models: tuple[str, ...]) -> None:
    """Adapt the models as people do today: in a loop over timm."""
    started = time.monotonic()
    filesystem, path = fsspec.core.url_to_fs(dest)
    filesystem.makedirs(path, exist_ok=True)
    for tag in models:
        for count in chans:
            model = timm.create_model(
                tag, pretrained=True, in_chans=count,
                pretrained_cfg_overlay={"file": str(_file(zoo, tag))},
            ).eval()  # fmt: skip
            _forward(model, count)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder if dest.startswith("s3:") else path, f"{tag}-{count}")
                safetensors.torch.save_file(model.state_dict(), file)
                if dest.startswith("s3:"):
                    filesystem.put(str(file), f"{path}/{file.name}")
    click.echo(time.monotonic() - started)


def _file(zoo: Path, tag: str) -> Path:
    return zoo / str(timm.get_pretrained_cfg(tag).hf_hub_id) / "model.safetensors"


def _forward(model: torch.nn.Module, chans: int) -> None:
    cfg: Any = model.pretrained_cfg
    with torch.inference_mode():
        model(torch.randn(2, chans, *cfg["input_size"][1:]))


def _compare(bench: Bench, chans: Sequence[int], many: Sequence[int], rounds: int) -> None:
    """Time every role in turn, and print the ratios of their times."""
    runs = {
        (role, len(counts), s3): (role, counts, s3)
        for s3 in (True, False)
        for role, counts in [
            ("start", chans), ("floor", chans), ("loop", chans), ("zooadapt", chans),
            ("zooadapt", many), ("zooadapt", many[:1]),
        ]
    }  # fmt: skip
    seconds: dict[tuple[str, int, bool], list[float]] = {key: [] for key in runs}
    for number in range(rounds):
        for key, (role, counts, s3) in runs.items():
            seconds[key].append(bench.run(role, counts, s3))
            where = "S3" if s3 else "folder"
            click.echo(
                f"round {number + 1}, {where}, {role}, {len(counts)} counts: "
                f"{seconds[key][-1]:.1f} s"
            )
    for s3 in (True, False):
        start = min(seconds["start", len(chans), s3])

        def job(counts: Sequence[int], s3: bool = s3, start: float = start) -> list[float]:
            return [value - start for value in seconds["zooadapt", len(counts), s3]]

        where = "S3" if s3 else "a folder"
        click.echo(f"\nto {where}; start of Python and Ray: {start:.1f} s")
        named = f"{len(chans)} counts"
        _ratio(f"loop / zooadapt, {named}", seconds["loop", len(chans), s3], job(chans))
        _ratio(f"zooadapt / floor, {named}", job(chans), seconds["floor", len(chans), s3])
        _ratio(f"zooadapt, {len(many)} counts / 1 count", job(many), job(many[:1]))


def _ratio(name: str, above: Sequence[float], below: Sequence[float]) -> None:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    click.echo(
        f"{name:35s} {statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def _count(bench: Bench, chans: Sequence[int], size: int) -> None:
    """Run once through proxies. Prints bytes of source and store, and memory of the workers."""
    with (
        tempfile.TemporaryDirectory(dir=bench.work) as name,
        seaweed.running(Path(name)) as server,
        hub.serving(bench.work / "zoo") as source,
        proxy.counting(server.endpoint_url) as store,
        _peak_memory() as peak,
    ):
        env = {**server.env, "AWS_ENDPOINT_URL": store.url, **source.env}
        bench.job(chans, f"s3://{seaweed.BUCKET}/counted", bench.models, **env)
    variants = len(chans) * len(bench.models)
    sent = (store.sent - 1.1 * size) / variants / MB
    largest = max(_file(bench.work / "zoo", tag).stat().st_size for tag in bench.models)
    click.echo(f"\ncounted: {len(chans)} counts to S3, from a source of {size / MB:,.0f} MB")
    click.echo(f"source bytes read                   {source.body_bytes() / size:.3f} x")
    click.echo(f"sent to the store                   {store.sent / MB:,.0f} MB: 1.1 x the source"
               f" and {sent:+.1f} MB a variant")  # fmt: skip
    click.echo(f"read back from the store            {store.received / size:.3f} x the source")
    click.echo(f"peak anonymous memory of a worker   {peak[0] / MB:,.0f} MB; the largest checkpoint"
               f" has {largest / MB:,.0f} MB")  # fmt: skip


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Measure the most anonymous bytes that any of Ray's workers holds during the block."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # the process has ended
                    if (process / "cmdline").read_text().startswith("ray::"):
                        peak[0] = max(peak[0], _anonymous(process))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _anonymous(process: Path) -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", (process / "status").read_text())
    return 1024 * int(found[1]) if found else 0


def _drive(bench: Bench, entries: int) -> None:
    command = [sys.executable, __file__, "driver", str(entries)]
    click.echo(f"\n{_checked(command, bench.env).strip()}")


@main.command("driver", hidden=True)
@click.argument("entries", type=int)
def driver(entries: int) -> None:
    """Measure the driver alone: plan `entries` models, and run some through stages without work."""
    job = Job("run", "/nowhere")
    config = Config(
        chans=(1, 4, 8, 25), bands=(), scheme=None, dest=job.dest, zoo=("timm",), models=(),
        exclude=(), license=(), source_root=None, max_models=None, dry_run=False,
        retry_failed=False, check_sources=False,
    )  # fmt: skip
    todo = plan.make([_entry(number) for number in range(entries)], config, [])
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    requests = iter(todo.requests)
    for size, locate in ((100, idle.locate), (1, idle.locate_small)):
        _through(
            requests, job, ray_executor.TaskFunctions(locate, idle.adapt, idle.prove), f"{size} MB"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    click.echo(f"driver: {peak / MB:,.0f} MB at {entries:,} models")


def _through(
    requests: Iterator[Request], job: Job, stages: ray_executor.TaskFunctions, size: str
) -> None:
    """Time models through stages that do nothing, after the processes have started."""
    times: list[tuple[float, float]] = []

    def ended(summary: ModelSummary) -> None:
        times.append((time.monotonic(), time.process_time()))

    with ray_executor.RayExecutor(job, Workers(), stages, named=False) as executor:
        taken = itertools.islice(requests, _WARMING + _SCHEDULED)
        schedule.Schedule(
            taken, executor, ended, lambda request, error: simulation.summary(request)
        ).run()
    wall, own = (end - begin for begin, end in zip(times[_WARMING - 1], times[-1], strict=True))
    click.echo(
        f"driver: {_SCHEDULED / wall:,.0f} models of {size} a second through stages that do "
        f"nothing, {1000 * own / _SCHEDULED:.2f} ms of its own CPU time each"
    )


_WARMING, _SCHEDULED = 1000, 10_000


def _entry(number: int) -> ModelEntry:
    """An entry whose names are as long as timm's."""
    name = f"some_architecture_patch16_224_{number}"
    return ModelEntry("timm", f"{name}.in1k", name, "in1k", "apache-2.0", f"timm/{name}.in1k")


if __name__ == "__main__":
    main()
