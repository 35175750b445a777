"""Compare the job with a loop over timm, and with the least work that any such job must do.

    python jobs/benchmark.py --rounds 3

Makes seeded random checkpoints, then times these commands in turn, each in a process of its own.
The first four write to a folder and to S3 (SeaweedFS on this machine), the others to a folder:

- loop: for each model and channel count timm.create_model(pretrained=True, in_chans=N) from the
  local file, a forward pass of one image, safetensors' save_file, upload with s3fs;
- floor: read each checkpoint once, write it once to the destination, and run it once;
- zooadapt: python jobs/adapt_zoo.py, with all proofs and hashes;
- start: the same for a tiny model on each core, so that as many workers start;
- limit: the CPU time to write, to hash and to run each model once for each count, on one image,
  divided by the number of cores: what perfect use of all cores would take;
- tiny: zooadapt with one tiny model;
- nothing: the same again, with nothing to do;
- ray: import torch, timm and ray, and ray.init();
- timm: import timm.

Where starts are apart, loop, limit and floor are timed after all imports, and `start` is subtracted
from `zooadapt`. CPU seconds of the job are those of the driver and of Ray's workers. One more run
counts the bytes through the sockets and the memory of the workers. Last, the driver is measured
alone. The script needs the extra `test`.

The job proves on GPUs where Ray finds some. There, with --device cuda, loop and floor run their
models on the GPU, too. The limit is that of the CPUs.
"""

import hashlib
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
from dataclasses import dataclass, field, replace
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
from zooadapt.cluster.tasks import TaskFunctions  # noqa: E402
from zooadapt.job import plan  # noqa: E402
from zooadapt.job.options import Config, parse_chans, parse_names  # noqa: E402
from zooadapt.proof import devices  # noqa: E402
from zooadapt.types import Job, ModelEntry, ModelSummary, Request  # noqa: E402
from zooadapt.zoos.timm import recompute_buffers  # noqa: E402

TINY = (
    "test_vit.r160_in1k", "test_resnet.r160_in1k", "test_byobnet.r160_in1k",
    "test_convnext.r160_in1k", "test_efficientnet.r160_in1k", "test_vit2.r160_in1k",
    "test_vit3.r160_in1k", "test_nfnet.r160_in1k",
)  # fmt: skip
MB = 1e6


@click.group(help=__doc__, invoke_without_command=True)
@click.option(
    "--models", default=",".join(checkpoints.SIX), callback=parse_names, help="Tags of timm."
)
@click.option("--chans", default="1,4,8,25", callback=parse_chans, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Timed rounds; 0 skips the timing.")
@click.option(
    "--entries",
    default=1_000_000,
    show_default=True,
    type=click.IntRange(min=22_000),  # what _through takes, twice
    help="Models for the driver.",
)
@click.option("--device", default="cpu", show_default=True, help="Where loop and floor run models.")
@click.option("--folder", type=Path, help="The folder to work in; by default a temporary one.")
@click.pass_context
def main(
    context: click.Context, models: tuple[str, ...], chans: tuple[int, ...],
    rounds: int, entries: int, device: str, folder: Path | None,
) -> None:  # fmt: skip
    """Run all measurements and print the figures."""
    if context.invoked_subcommand:
        return
    with tempfile.TemporaryDirectory(dir=folder) as name, jobs.ray_folder() as env:
        work = Path(name)
        size = _make_checkpoints(work / "zoo", models)
        bench = Bench(work, models, device, env)
        click.echo(f"{len(models)} models, {size / MB:,.0f} MB, {os.cpu_count()} CPUs")
        if rounds:
            _compare(bench, chans, rounds)
        _count(bench, chans, size)
        _drive(bench, entries)


@dataclass(frozen=True)
class Bench:
    """What every timed run needs."""

    work: Path
    models: tuple[str, ...]
    device: str
    env: dict[str, str]

    def run(self, role: str, chans: Sequence[int], s3: bool) -> "Took":
        """What one run took to an empty destination. The destination is removed afterwards."""
        with tempfile.TemporaryDirectory(dir=self.work) as name:
            if not s3:
                return ROLES[role](self, chans, f"{name}/mirror")
            with seaweed.running(Path(name)) as server:
                bench = replace(self, env={**self.env, **server.env})
                return ROLES[role](bench, chans, f"s3://{seaweed.BUCKET}/mirror")

    def job(self, chans: Sequence[int], dest: str, models: Sequence[str], **env: str) -> "Took":
        """What the job took, from its start to its end."""
        command = [
            *jobs.JOB, "--chans", _joined(chans), "--dest", dest, "--models", _joined(models),
        ]  # fmt: skip
        if "HF_ENDPOINT" not in env:
            command += ["--source-root", str(self.work / "zoo")]
        with _watched_workers() as workers:
            took = self.command(*command, **env)
        return replace(took, cpu=workers.cpu())

    def again(self, chans: Sequence[int], dest: str) -> "Took":
        """What a job with nothing to do took."""
        self.job(chans, dest, TINY[:1])
        return self.job(chans, dest, TINY[:1])

    def command(self, *command: str, **env: str) -> "Took":
        """What a command took; a role implemented in this file prints its own seconds."""
        started = time.monotonic()
        printed = _checked(command, {**self.env, **env})
        return Took(time.monotonic() - started, 0, 0, printed)

    def script(self, role: str, chans: Sequence[int], dest: str) -> "Took":
        """What a role implemented in this file took, and what it says of itself."""
        where = [str(self.work / "zoo"), dest, self.device, _joined(chans)]
        took = self.command(sys.executable, __file__, role, *where, *self.models)
        own, cpu = map(float, took.printed.split()[-2:])
        return replace(took, own=own, cpu=cpu)


@dataclass(frozen=True)
class Took:
    """What a command took, in seconds."""

    wall: float
    """From the start of the process to its end."""
    own: float
    """After the imports."""
    cpu: float
    """CPU time after the imports, or, of a job, that of the driver and of Ray's workers."""
    printed: str = ""


_RAY = "import torch, timm, ray; ray.init(include_dashboard=False, log_to_driver=False)"
ROLES: dict[str, Callable[[Bench, Sequence[int], str], Took]] = {
    "ray": lambda bench, chans, dest: bench.command(sys.executable, "-c", _RAY),
    "start": lambda bench, chans, dest: bench.job([1], dest, TINY[: os.cpu_count()]),
    "tiny": lambda bench, chans, dest: bench.job([1], dest, TINY[:1]),
    "timm": lambda bench, chans, dest: bench.command(sys.executable, "-c", "import timm"),
    "nothing": lambda bench, chans, dest: bench.again([1], dest),
    "limit": lambda bench, chans, dest: bench.script("limit", chans, dest),
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
    """Write the checkpoints, and the tiny ones. Returns the bytes of the others."""
    sizes = [checkpoints.write_hub_repo(root, tag).stat().st_size for tag in [*tags, *TINY]]
    return sum(sizes[: len(tags)])


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


_Role = Callable[[Path, str, torch.device, Sequence[int], Sequence[str]], None]


def _role(function: _Role) -> click.Command:
    """A hidden command that does the work and prints its seconds, and those of its CPU time."""

    @main.command(function.__name__, hidden=True)
    @click.argument("zoo", type=Path)
    @click.argument("dest")
    @click.argument("device")
    @click.argument("chans", callback=parse_chans)
    @click.argument("models", nargs=-1)
    def command(
        zoo: Path, dest: str, device: str, chans: tuple[int, ...], models: tuple[str, ...]
    ) -> None:
        place = devices.named(device)  # so that CUDA's start doesn't count
        started, cpu = time.monotonic(), time.process_time()
        filesystem, path = fsspec.core.url_to_fs(dest)
        filesystem.makedirs(path, exist_ok=True)
        function(zoo, dest, place, chans, models)
        click.echo(f"{time.monotonic() - started} {time.process_time() - cpu}")

    return command


@_role
def limit(
    zoo: Path, dest: str, device: torch.device, chans: Sequence[int], models: Sequence[str]
) -> None:
    """Write, hash and run each model once for each count, on one core."""
    filesystem, path = fsspec.core.url_to_fs(dest)
    torch.set_num_threads(1)
    for tag in models:
        model = _mapped(zoo, tag)
        for count in chans:
            filesystem.put(str(_file(zoo, tag)), f"{path}/{tag}-{count}")
            with _file(zoo, tag).open("rb") as file:
                hashlib.file_digest(file, "sha256")
            _forward(model, 3, torch.device("cpu"))


@_role
def floor(
    zoo: Path, dest: str, device: torch.device, chans: Sequence[int], models: Sequence[str]
) -> None:
    """Read each checkpoint once, write it once, and run it once."""
    filesystem, path = fsspec.core.url_to_fs(dest)
    for tag in models:
        filesystem.put(str(_file(zoo, tag)), f"{path}/{tag}.safetensors")
        _forward(_mapped(zoo, tag), 3, device)


def _mapped(zoo: Path, tag: str) -> torch.nn.Module:
    """The model, with the checkpoint's tensors mapped into memory."""
    with torch.device("meta"):
        model: torch.nn.Module = timm.create_model(tag).eval()
    model.load_state_dict(safetensors.torch.load_file(_file(zoo, tag)), assign=True)
    recompute_buffers(model)
    return model


@_role
def loop(
    zoo: Path, dest: str, device: torch.device, chans: Sequence[int], models: Sequence[str]
) -> None:
    """Adapt the models as people do today: in a loop over timm."""
    filesystem, path = fsspec.core.url_to_fs(dest)
    for tag in models:
        for count in chans:
            model = timm.create_model(
                tag, pretrained=True, in_chans=count,
                pretrained_cfg_overlay={"file": str(_file(zoo, tag))},
            ).eval()  # fmt: skip
            _forward(model, count, device)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder if dest.startswith("s3:") else path, f"{tag}-{count}")
                safetensors.torch.save_file(model.state_dict(), file)
                if dest.startswith("s3:"):
                    filesystem.put(str(file), f"{path}/{file.name}")


def _file(zoo: Path, tag: str) -> Path:
    return zoo / str(timm.get_pretrained_cfg(tag).hf_hub_id) / "model.safetensors"


def _forward(model: torch.nn.Module, chans: int, device: torch.device) -> None:
    cfg: Any = model.pretrained_cfg
    with torch.inference_mode():
        image = torch.randn(1, chans, *cfg["input_size"][1:], device=device)
        model.to(device)(image).cpu()  # `cpu` waits until a GPU is done


def _compare(bench: Bench, chans: Sequence[int], rounds: int) -> None:
    """Time every command in turn, and print the ratios."""
    both = ("floor", "loop", "start", "zooadapt")
    runs = [(role, s3) for s3 in (False, True) for role in both]
    runs += [(role, False) for role in ("limit", "ray", "tiny", "timm", "nothing")]
    took: dict[tuple[str, bool], list[Took]] = {key: [] for key in runs}
    bench.run("start", chans, False)  # the first job after an installation also lists the zoo
    for number in range(rounds):
        for role, s3 in runs:
            latest = bench.run(role, chans, s3)
            took[role, s3].append(latest)
            where = "S3" if s3 else "folder"
            times = f"{latest.wall:.1f} s, {latest.own:.1f} s after imports, {latest.cpu:.1f} s CPU"
            click.echo(f"round {number + 1}, {where}, {role}: {times}")
    _tell("a folder", {role: took[role, False] for role, s3 in runs if not s3})
    _tell("S3", {role: took[role, True] for role, s3 in runs if s3})


def _tell(where: str, took: dict[str, list[Took]]) -> None:
    walls = {role: [each.wall for each in rounds] for role, rounds in took.items()}
    own = {role: [each.own for each in rounds] for role, rounds in took.items()}
    cpu = {role: [each.cpu for each in rounds] for role, rounds in took.items()}
    job = [wall - min(walls["start"]) for wall in walls["zooadapt"]]
    cpu_of_job = [seconds - min(cpu["start"]) for seconds in cpu["zooadapt"]]
    click.echo(f"\nto {where}")
    _ratio("loop / zooadapt, starts apart", own["loop"], job)
    _ratio("loop / zooadapt, everything included", walls["loop"], walls["zooadapt"])
    _ratio("zooadapt / floor, starts apart", job, own["floor"])
    _ratio("CPU seconds, zooadapt / loop, starts apart", cpu_of_job, cpu["loop"])
    if "limit" in took:
        perfect = [seconds / (os.cpu_count() or 1) for seconds in cpu["limit"]]
        _ratio("zooadapt / limit, starts apart", job, perfect)
        _ratio("job of one tiny model / start of Ray", walls["tiny"], walls["ray"])
        _ratio("nothing to do / import timm", walls["nothing"], walls["timm"])


def _ratio(name: str, above: Sequence[float], below: Sequence[float]) -> None:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    click.echo(
        f"{name:45s} {statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def _count(bench: Bench, chans: Sequence[int], size: int) -> None:
    """Run once through proxies. Prints bytes of source and store, and memory of the workers."""
    with (
        tempfile.TemporaryDirectory(dir=bench.work) as name,
        seaweed.running(Path(name)) as server,
        hub.serving(bench.work / "zoo") as source,
        proxy.counting(server.endpoint_url) as store,
        _watched_workers() as workers,
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
    click.echo(f"peak anonymous memory of a worker   {workers.memory / MB:,.0f} MB; the largest"
               f" checkpoint has {largest / MB:,.0f} MB")  # fmt: skip


@dataclass
class _Workers:
    """What the processes of a job, the driver and Ray's workers, have taken so far."""

    ticks: dict[str, int] = field(default_factory=dict)
    """CPU time by process id."""
    memory: int = 0
    """The most anonymous bytes that any of Ray's workers held."""

    def cpu(self) -> float:
        """Seconds of CPU time."""
        return sum(self.ticks.values()) / os.sysconf("SC_CLK_TCK")

    def look(self) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (process / "cmdline").read_text()
                if command.startswith("ray::"):
                    self.memory = max(self.memory, _anonymous(process))
                elif jobs.JOB[1] not in command:
                    continue
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                self.ticks[process.name] = int(fields[11]) + int(fields[12])


@contextmanager
def _watched_workers() -> Iterator[_Workers]:
    """Watch the processes of a job during the block, ten times a second."""
    workers, ended = _Workers(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            workers.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield workers
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
            requests, job, TaskFunctions(locate, idle.make, idle.adapt, idle.prove), f"{size} MB"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    click.echo(f"driver: {peak / MB:,.0f} MB at {entries:,} models")


def _through(requests: Iterator[Request], job: Job, stages: TaskFunctions, size: str) -> None:
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
