"""One run of the batch job: plan, cluster, compaction, report."""

import json
import logging
import math
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

import click

from zooadapt import __version__
from zooadapt.checkpoints import sources
from zooadapt.cluster import connection, nodes, ray_executor
from zooadapt.errors import Absent, FetchError, RunError, Unreachable, UsageError, one_line, redact
from zooadapt.job import estimate, plan, source_changes
from zooadapt.job.options import Config
from zooadapt.job.outcomes import Outcomes
from zooadapt.mirror import manifest
from zooadapt.mirror.columns import KEY
from zooadapt.mirror.manifest import Row
from zooadapt.mirror.scan import Reading
from zooadapt.report import page, text
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.types import Job, ModelEntry, ModelSummary, Source

OK, FAILED, STOPPED = 0, 1, 3

_log = logging.getLogger("zooadapt")

_LOOKUPS = 16
"""Sources asked at once by the driver."""


def adapt(config: Config) -> int:
    """Do what the options ask for; returns the exit code: 0, 1, or 3 where the time was up.

    Raises UsageError (exit code 2), RunError (3), and KeyboardInterrupt on Ctrl-C or SIGTERM, when
    what is recorded has been compacted.
    """
    started = time.monotonic()
    job, listed = _job(config), plan.listed(config)
    entries = plan.select(config, listed)
    plan.check_targets(entries, config.targets)
    store = _open_mirror(config, job)
    click.echo(f"mirror: {redact(job.dest)}")
    with store.session(job.run_id):
        manifest.check_tables(store)
        found = _check(entries, config, job)
        if config.check_sources:
            view = source_changes.View(config, listed, found)
            histories = Reading(store).histories()
            if changes := str(source_changes.follow(store, histories, view, job.run_id)):
                click.echo(f"sources: {changes}")
        todo = _plan(entries, config, manifest.histories(store), found)
        click.echo(f"plan: {text.plan_line(todo)}")
        with tempfile.TemporaryFile() as log:
            outcomes = Outcomes(log)
            try:
                if todo.requests:
                    _work(todo, config, job, store, outcomes)
            finally:
                try:
                    tables = _compact(store, job)
                finally:
                    outcomes.leave_events(store, job.run_id)
            seconds = time.monotonic() - started
            left = len(todo.requests) - outcomes.models
            code = _finish(config, entries, store, job, tables, outcomes, seconds, left)
            if not left:
                return code
            click.echo(
                f"stopped after {config.max_hours:g} h, as asked, with {left:,} of "
                f"{len(todo.requests):,} models left; the same command goes on"
            )
            return STOPPED


def dry_run(config: Config) -> int:
    """Print what a run would do, and do nothing; returns the exit code 0."""
    job, entries = _job(config), plan.select(config)
    plan.check_targets(entries, config.targets)
    store = open_store(job.dest, job.dest_options)
    manifest.check_tables(store)
    found = _check(entries, config, job)
    todo = _plan(entries, config, manifest.histories(store), found)
    click.echo(f"mirror: {redact(job.dest)}")
    click.echo(f"plan: {text.plan_line(todo)}")
    due = [request.entry for request in todo.requests]
    sources = [found[entry] for entry in due] if found else _look_up(due, job)
    estimated = _estimate(todo, sources, store)
    click.echo(text.dry_run(todo, sources, store.free_bytes(), estimated, config.bandwidth))
    return OK


def _estimate(
    todo: plan.Plan, sources: Sequence[Source | FetchError], store: Store
) -> estimate.Estimate:
    """What the models of known size take."""
    return estimate.total(
        estimate.of_model(source.bytes, len(request.targets), store.composes)
        for request, source in zip(todo.requests, sources, strict=True)
        if isinstance(source, Source) and source.bytes is not None
    )


def _job(config: Config) -> Job:
    return Job(
        run_id=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}",
        dest=config.dest,
        source_root=config.source_root,
        dest_options=config.storage_options,
        source_options=config.source_storage_options,
    )


def _open_mirror(config: Config, job: Job) -> Store:
    """The mirror's store, with the resolved options written to it. Raises UsageError."""
    store = open_store(job.dest, job.dest_options)
    shown = {field.name for field in fields(config) if field.repr}
    options = {name: value for name, value in asdict(config).items() if name in shown}
    options |= {name: redact(options[name] or "") for name in ("dest", "source_root")}
    options["zoo"] = [redact(spec) for spec in config.zoo]
    options["zooadapt_version"] = __version__
    try:
        store.write(f"runs/{job.run_id}/config.json", [json.dumps(options, indent=2).encode()])
    except Exception as cause:
        raise UsageError(
            f"--dest {redact(job.dest)} can't be written: {one_line(cause)}"
        ) from cause
    return store


def _check(entries: Sequence[ModelEntry], config: Config, job: Job) -> source_changes.Found:
    """What the sources say now, if the options ask for it; those that say nothing are counted."""
    if not config.check_sources:
        return {}
    now = dict(zip(entries, _look_up(entries, job), strict=True))
    silent = [
        (entry.name, error)
        for entry, error in now.items()
        if isinstance(error, FetchError) and not isinstance(error, Absent)
    ]
    if silent:
        name, error = silent[0]
        click.echo(f"{len(silent)} sources couldn't be checked, among them {name}: {error}")
    return now


def _plan(
    entries: Sequence[ModelEntry],
    config: Config,
    histories: Iterable[Sequence[Row]],
    now: source_changes.Found,
) -> plan.Plan:
    def changed(entry: ModelEntry, recorded: str) -> bool:
        source = now.get(entry)
        return isinstance(source, Source) and source.identity != recorded

    return plan.make(entries, config, histories, changed)


def _look_up(entries: Sequence[ModelEntry], job: Job) -> list[Source | FetchError]:
    """What each source says of its checkpoint, or why it says nothing.

    If the first can't even be reached, the others aren't asked.
    """

    def one(entry: ModelEntry) -> Source | FetchError:
        try:
            return sources.locate(entry, job).source
        except FetchError as error:
            return error

    first = one(entries[0]) if entries else None
    if isinstance(first, Unreachable):
        return [first] * len(entries)
    with ThreadPoolExecutor(_LOOKUPS) as pool:
        return list(pool.map(one, entries))


def _compact(store: Store, job: Job) -> manifest.Compacted:
    """The tables of all that is recorded. Raises RunError where they can't be written."""
    try:
        tables = manifest.compact(store)
        store.write(manifest.snapshot(job.run_id), [tables.usable.data])
        return tables
    except OSError as cause:
        raise RunError(
            f"the manifest can't be made in {redact(job.dest)} ({one_line(cause)}); what is "
            f"recorded stays: make room or mend the store, then the same command goes on"
        ) from cause


def _work(todo: plan.Plan, config: Config, job: Job, store: Store, outcomes: Outcomes) -> None:
    """Run what is due, as far as the time goes."""
    deadline = time.monotonic() + 3600 * (config.max_hours or math.inf)
    with connection.connected() as line:
        click.echo(f"ray: {line}")
        if store.is_local:
            connection.check_local_dest(Path(store.root), job.run_id)
        asked = nodes.Workers(
            config.gpus or 0, config.cpus or 0, int((config.node_memory or 0) * 1e9)
        )
        click.echo(f"ray: {nodes.workers(asked)}")
        with text.Progress(len(todo.requests)) as progress:

            def ended(summary: ModelSummary) -> None:
                outcomes.add(summary)
                progress.model_ended(summary)

            ray_executor.run(todo.requests, job, asked, ended, lambda: time.monotonic() > deadline)


def _finish(
    config: Config,
    entries: Sequence[ModelEntry],
    store: Store,
    job: Job,
    tables: manifest.Compacted,
    outcomes: Outcomes,
    seconds: float,
    left: int,
) -> int:
    """Say what became of everything asked for, and leave it in the mirror's run folder."""
    asked = {(entry.zoo, entry.name) for entry in entries}
    targets = {(target.in_chans, target.names, target.scheme) for target in config.targets}

    def wanted(row: Row) -> bool:
        variant = (row["in_chans"], row["bands"], row["scheme"])
        return (row["zoo"], row["model"]) in asked and variant in targets

    recorded = [row for row in tables.failures if wanted(row)]
    # Of now too, where an older success still stands in the mirror.
    failures = list({manifest.key(row): row for row in [*recorded, *outcomes.failures]}.values())
    counts = Counter(row["status"] for row in failures)
    ending = text.Ending(
        dest=redact(job.dest),
        new=outcomes.made,
        usable=len(tables.usable),
        unsupported=counts["unsupported"],
        failed=counts["failed"],
        seconds=seconds,
        models=outcomes.models,
        bytes_read=outcomes.bytes_read,
        bytes_written=outcomes.bytes_written,
        stages=outcomes.stages,
        left=left,
    )
    if failures:
        click.echo(text.failure_table(failures))
    example = tables.usable.last(wanted, by=KEY)
    summary = json.dumps(asdict(ending), indent=2).encode()
    store.write(f"runs/{job.run_id}/summary.json", [summary])
    _leave_page(store)
    click.echo(text.closing(ending, example, options=bool(job.dest_options)))
    return FAILED if counts["failed"] else OK


def _leave_page(store: Store) -> None:
    """The mirror's page. Nobody's run fails for want of one."""
    try:
        page.write(store)
    except Exception as error:
        _log.warning("the mirror's page wasn't written: %s", one_line(error))
