"""Measure how exactly every architecture of a zoo can be adapted, and compare with timm itself.

    python jobs/conformance.py --chans 1,4,8,25 --out conformance.parquet

No checkpoint is needed: the weights are seeded and random. Prints and writes one row for each
architecture and channel count, then prints a table of counts. To resume after a stop, run the same
command again.
"""

import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import click
import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for jobs.measure

from jobs.measure import conformance  # noqa: E402
from zooadapt.cli.main import script  # noqa: E402
from zooadapt.costs import PER_GPU  # noqa: E402
from zooadapt.job import plan  # noqa: E402
from zooadapt.job.options import parse_chans, parse_names  # noqa: E402
from zooadapt.proof import devices  # noqa: E402
from zooadapt.targets import SCHEMES  # noqa: E402
from zooadapt.types import ModelEntry  # noqa: E402
from zooadapt.zoos import registry  # noqa: E402

COUNTED = sorted(name for name, scheme in SCHEMES.items() if not scheme.named)


@click.command(help=__doc__)
@click.option(
    "--chans", default="1,4,8,25", callback=parse_chans, show_default=True, help="Channel counts."
)
@click.option(
    "--scheme",
    type=click.Choice(COUNTED),
    default="repeat",
    show_default=True,
    help="The scheme to adapt by.",
)
@click.option("--zoo", default="timm", show_default=True, help="The zoo to measure.")
@click.option("--models", callback=parse_names, help="Globs over model names; all by default.")
@click.option(
    "--forward-params",
    default=100e6,
    show_default=True,
    help="Run whole models up to this many parameters; of larger models run only the stems.",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    callback=lambda context, option, name: devices.named(name),
    help="Where whole models are run: cpu, cuda or cuda:N. After an error from which CUDA doesn't "
    "recover, all later models of that worker fail, too: run the same command again.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    show_default=f"the number of CPUs; with a GPU {PER_GPU}",
    help="Processes that measure.",
)
@click.option(
    "--out",
    default="conformance.parquet",
    show_default=True,
    type=Path,
    help="The Parquet file to write.",
)
def main(
    chans: tuple[int, ...], scheme: str, zoo: str, models: tuple[str, ...], forward_params: float,
    device: torch.device, workers: int | None, out: Path,
) -> None:  # fmt: skip
    """Measure what isn't measured yet and what failed before, then report."""
    library = registry.get(zoo.partition(":")[0]).library
    made = f"{library}{version(library)}" + (f"-{device.type}" if device.type != "cpu" else "")
    workers = workers or (os.cpu_count() or 1 if device.type == "cpu" else PER_GPU)
    log = out.with_suffix(f".{zoo}-{scheme}-{forward_params:.0f}-{made}.jsonl")
    known = _read(log)
    entries = _one_of_each_architecture(zoo, models)
    done = {(row["architecture"], row["in_chans"]) for row in known if row["status"] != "failed"}
    todo = [
        (entry, missing)
        for entry in entries
        if (missing := [n for n in chans if (entry.architecture, n) not in done])
    ]
    with log.open("a") as file:
        for row in _measure(todo, scheme, forward_params, device, workers):
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()
            click.echo(_line(row))
    wanted = {entry.architecture for entry in entries}
    table = pd.DataFrame(_read(log))
    table = table[table["architecture"].isin(wanted) & table["in_chans"].isin(chans)]
    table.to_parquet(out, index=False)
    click.echo(f"\n{out}\n\n{conformance.summary(table)}")


def _one_of_each_architecture(zoo: str, globs: Sequence[str]) -> list[ModelEntry]:
    """The first model of each architecture that the zoo lists, or that its library knows."""
    known = getattr(registry.get(zoo), "architectures", None) if ":" not in zoo else None
    listed = list(known()) if known else registry.list_models(zoo)
    chosen = plan.matching(listed, globs, "--models") if globs else listed
    first: dict[str, ModelEntry] = {}
    for entry in chosen:
        first.setdefault(entry.architecture, entry)
    return list(first.values())


def _measure(
    todo: Sequence[tuple[ModelEntry, list[int]]],
    scheme: str,
    forward_params: float,
    device: torch.device,
    workers: int,
) -> Iterator[conformance.Measured]:
    """The rows, in the order in which the worker processes finish them."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare) as pool:
        futures = [
            pool.submit(conformance.measure, entry, counts, scheme, forward_params, device)
            for entry, counts in todo
        ]
        for future in as_completed(futures):
            try:
                yield from future.result()
            except BrokenProcessPool as cause:
                raise click.ClickException(
                    "a worker was killed, perhaps because memory ran out; to resume, run the same "
                    "command with lower --workers or --forward-params"
                ) from cause


def _prepare() -> None:
    """Set one thread per process. timm's warnings about random stems are counted, not printed."""
    torch.set_num_threads(1)
    logging.getLogger("timm").setLevel(logging.ERROR)


def _read(log: Path) -> list[dict[str, object]]:
    """The rows measured so far. Of several rows for one variant, only the last is kept."""
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return list({(row["architecture"], row["in_chans"]): row for row in rows}.values())


def _line(row: conformance.Measured) -> str:
    figures = f"error {row.equivalence_error:.1e} control {row.control_error:.1e} ({row.proof})"
    timms = f"timm: {row.timm}, " if row.timm else ""
    return (
        f"{row.architecture} {row.in_chans}ch: {row.status}, {timms}"
        f"{row.reason or figures}, {row.seconds:.1f} s"
    )


if __name__ == "__main__":
    script(main)
