"""A dry run: print what a run would do and what it would cost, and do nothing."""

import os
from collections.abc import Sequence

import click

from zooadapt.errors import FetchError
from zooadapt.job import estimate, plan, source_changes
from zooadapt.job.options import Config
from zooadapt.mirror import manifest
from zooadapt.report.text import counted, duration, size
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.types import Source


def dry_run(config: Config) -> int:
    """Print what a run would do, do nothing, and return the exit code 0.

    Raises the UsageErrors and RunErrors that the run itself would raise before its work begins.
    """
    job, entries = config.job(), plan.select(config)
    plan.check_targets(entries, config.targets)
    store = open_store(job.dest, job.dest_options)
    manifest.check_tables(store)
    found = source_changes.ask(entries, config, job)
    histories = manifest.histories(store)
    todo = plan.make(entries, config, histories, source_changes.differs(found))
    click.echo("\n".join([f"plan: {todo}", *todo.cautions]))
    due = [request.entry for request in todo.requests]
    sources = [found[entry] for entry in due] if found else source_changes.look_up(due, job)
    click.echo("\n".join(_lines(todo, sources, store, config)))
    return 0


def _lines(
    todo: plan.Plan, sources: Sequence[Source | FetchError], store: Store, config: Config
) -> list[str]:
    """The lines to print: one for each model that is due, then the sums and the estimate."""
    lines, read, written, unknown = [], 0, 0, []
    for request, source in zip(todo.requests, sources, strict=True):
        bytes_ = source.bytes if isinstance(source, Source) else None
        if bytes_ is None:
            unknown.append(source)
        read += bytes_ or 0
        written += (bytes_ or 0) * len(request.targets)
        shown = "size unknown" if bytes_ is None else size(bytes_)
        targets = ",".join(target.short for target in request.targets)
        lines.append(f"  {request.entry.name}  {targets}  {shown}")
    free = store.free_bytes()
    lines.append(f"to read:  {size(read)}{_unknown(unknown)}")
    lines.append(f"to write: about {size(written)}")
    lines.append(f"free:     {size(free) if free is not None else 'the store does not say'}")
    return [*lines, *_estimated(_estimate(todo, sources, store), config)]


def _estimate(
    todo: plan.Plan, sources: Sequence[Source | FetchError], store: Store
) -> estimate.Estimate:
    """The estimate for all models whose size is known."""
    return estimate.total(
        estimate.of_model(source.bytes, len(request.targets), store.composes)
        for request, source in zip(todo.requests, sources, strict=True)
        if isinstance(source, Source) and source.bytes is not None
    )


def _estimated(cost: estimate.Estimate, config: Config) -> list[str]:
    """The lines that print an estimate; the module `estimate` has the formulas."""
    cpus, gpus, bandwidth = config.cpus or os.cpu_count() or 1, config.gpus or 0, config.bandwidth
    wall = estimate.wall(cost, cpus, gpus, bandwidth)
    on = f"{counted(cpus, 'CPU')} and {counted(gpus, 'GPU')}"
    prices = estimate.Prices(config.price_cpu_hour, config.price_gpu_hour, config.price_gb_month)
    return [
        "estimated:",
        f"  requests  {counted(cost.lookups, 'look-up')} and {counted(cost.source_reads, 'read')} "
        f"of sources; {counted(cost.writes, 'write')} and {counted(cost.reads, 'read')} of the "
        f"store",
        f"  bytes     {size(cost.bytes_in)} from sources, {size(cost.bytes_sent)} to the store and "
        f"{size(cost.bytes_back)} back",
        f"  transfer  {duration(cost.seconds(bandwidth))} at {bandwidth:g} MB/s",
        f"  proofs    {duration(cost.gpu_seconds)} of a GPU, or {duration(cost.proof_seconds)} of "
        f"a CPU",
        f"  storage   {size(cost.stored)}",
        f"  time      {duration(wall.seconds)} on {on}, bound by {wall.bound_by}",
        *_priced(prices.run(wall.seconds, cpus, gpus), "for the run"),
        *_priced(prices.month(cost.stored), "a month for storage"),
    ]


def _priced(money: float | None, what: str) -> list[str]:
    return [] if money is None else [f"  price     {money:,.2f} {what}"]


def _unknown(sources: Sequence[Source | FetchError]) -> str:
    if not sources:
        return ""
    reason = next((f" ({source})" for source in sources if isinstance(source, FetchError)), "")
    return f", and {counted(len(sources), 'checkpoint')} of unknown size{reason}"
