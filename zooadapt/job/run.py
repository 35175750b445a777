"""One run of the batch job: plan, work, compact, report."""

import fcntl  # noqa: F401 - the workers need it: on Windows nothing is begun
import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread

import click

from zooadapt.checkpoints.fetch import passes
from zooadapt.cluster.connection import Connection
from zooadapt.errors import RunError, UsageError, one_line, redact
from zooadapt.job import plan, source_changes
from zooadapt.job.interim import Heart, Interim
from zooadapt.job.options import Config
from zooadapt.job.tally import Tally
from zooadapt.mirror import manifest, run_files
from zooadapt.mirror.columns import KEY, key
from zooadapt.mirror.run_files import EventLog
from zooadapt.mirror.scan import Records
from zooadapt.report import page
from zooadapt.report.failures import failure_table
from zooadapt.report.job import Progress, closing
from zooadapt.report.text import counted
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.targets import Target
from zooadapt.types import Job, ModelEntry, ModelSummary, Request, Row
from zooadapt.zoos import registry

OK, FAILED, STOPPED = 0, 1, 3


def adapt(config: Config) -> int:
    """Do what the options ask for, and return the exit code.

    It is 0, 1 if models failed, or 3 if the time was up. Raises UsageError (2), RunError (3), and
    on Ctrl-C or SIGTERM KeyboardInterrupt, after the records have been compacted.
    """
    with Connection() as connection:
        return _adapt(config, connection)


def _adapt(config: Config, connection: Connection) -> int:
    job = config.job()
    listed = plan.list_models(config)
    entries = plan.select(config, listed)
    plan.check_targets(entries, config.targets)
    store = open_mirror(config, job)
    with store.session(job.run_id), tempfile.TemporaryFile() as log:
        manifest.check_tables(store)
        records = Records(store, keep=True)
        todo = planned(config, job, listed, entries, records)
        click.echo("\n".join([f"plan: {todo}", *todo.cautions]))
        tally = Tally(job.run_id, EventLog(log), todo.requests)
        heart = Heart(store, tally)
        with ExitStack() as ending:
            ending.callback(connection.end)
            try:
                with heart.ending_badly():
                    if todo.requests:
                        work(config, job, records, heart, connection, ending)
            finally:  # before anything is cancelled: who stops a job may kill it in seconds
                try:
                    with heart.ending_badly():
                        tables = compacted(records, job)
                finally:
                    tally.events.leave(store, job.run_id)
        with heart.ending_badly():
            return _finish(config, job, entries, tables, tally, store)


def open_mirror(config: Config, job: Job) -> Store:
    """Open the mirror's store, and write the run's options to it.

    Raises UsageError if the store refuses that, and RunError if it is out of reach.
    """
    store = open_store(job.dest, job.dest_options)
    try:
        run_files.write_options(store, job.run_id, config.shown())
    except Exception as cause:
        if not store.is_local and passes(cause):
            raise RunError(
                f"the store of --dest {store.url} is out of reach: {one_line(cause)}; run the same "
                f"command again once it answers"
            ) from cause
        raise UsageError(f"--dest {store.url} can't be written: {one_line(cause)}") from cause
    return store


def planned(
    config: Config,
    job: Job,
    listed: Sequence[ModelEntry],
    entries: Sequence[ModelEntry],
    records: Records,
) -> plan.Plan:
    """The run's plan, in one pass over the records, which also records changes at the sources."""
    found = source_changes.ask(entries, config, job)
    histories = records.histories()
    if config.check_sources:
        view = source_changes.View(config, listed, found)
        follower = source_changes.Follower(records.store, view, job.run_id)
        histories = follower.through(histories)
    todo = plan.make(entries, config, histories, source_changes.differs(found))
    records.warn_of_damaged()
    if config.check_sources and (changes := str(follower.followed)):
        click.echo(f"sources: {changes}")
    return todo


def work(
    config: Config,
    job: Job,
    records: Records,
    heart: Heart,
    connection: Connection,
    ending: ExitStack,
) -> None:
    """Adapt and prove what is due, on Ray, until the time is up.

    What still runs after an error is cancelled when `ending` is closed.
    """
    from zooadapt.cluster import nodes, ray_executor  # Ray: not where nothing is due

    tally, requests = heart.tally, heart.tally.requests
    deadline = time.monotonic() + 3600 * (config.max_hours or math.inf)
    click.echo(f"ray: {connection.made()}")
    if records.store.is_local:
        nodes.check_local_dest(Path(records.store.root), job.run_id)
    asked = nodes.Workers(config.gpus or 0, config.cpus or 0, int((config.node_memory or 0) * 1e9))
    click.echo(f"ray: {nodes.workers(asked)}")
    Thread(target=page.prepare).start()
    with (
        Progress(requests) as progress,
        Interim(records.store, heart),
    ):
        heart.seconds_left = progress.seconds_left
        watcher = _Watcher(tally, progress)
        tally.down = ray_executor.run(
            requests, job, asked, watcher, ending, lambda: time.monotonic() > deadline
        )


@dataclass(frozen=True)
class _Watcher:
    """Counts and prints what happens in a run."""

    tally: Tally
    progress: Progress

    def located(self, request: Request, size: int | None) -> None:
        self.progress.located(request, size)

    def ended(self, summary: ModelSummary) -> None:
        self.tally.add(summary)
        self.progress.model_ended(summary)

    def tick(self) -> None:
        self.progress.tell()


def compacted(records: Records, job: Job) -> manifest.Compacted:
    """Compact the records into the tables. Raises RunError where these can't be written."""
    try:
        tables = manifest.compact(records.store, records)
        records.store.write(manifest.snapshot(job.run_id), [tables.usable.data])
        return tables
    except OSError as cause:
        raise RunError(
            f"the manifest can't be made in {redact(job.dest)} ({one_line(cause)}); all records "
            f"stay: make room or repair the store, then run the same command again to resume"
        ) from cause


def _place(row: Row) -> tuple[str, str, int, str]:
    """What a row is about, whatever its scheme."""
    return row["zoo"], row["model"], row["in_chans"], row["bands"]


def _finish(
    config: Config,
    job: Job,
    entries: Sequence[ModelEntry],
    tables: manifest.Compacted,
    tally: Tally,
    store: Store,
) -> int:
    """Print what became of all that was asked for, write it to the mirror, return the exit code."""
    asked = {(entry.zoo, entry.name): entry for entry in entries}

    def wanted(row: Row, targets: Sequence[Target] = config.targets) -> bool:
        return (row["zoo"], row["model"]) in asked and any(
            (row["in_chans"], row["bands"]) == (target.in_chans, target.names)
            and target.admits(row["scheme"])
            for target in targets
        )

    def is_lacking(row: Row) -> bool:
        """Whether a failure is of what is asked for, under the model's own scheme."""
        entry = asked.get((row["zoo"], row["model"]))
        return entry is not None and wanted(row, registry.for_model(entry, config.targets))

    recorded = [row for row in tables.failures if is_lacking(row)]
    if any(target.is_open for target in config.targets) and recorded:
        places = {_place(row) for row in recorded}
        made = {_place(row) for row in tables.usable if _place(row) in places and wanted(row)}
        recorded = [row for row in recorded if _place(row) not in made]
    # A failure of this run counts even where an older success stands in the mirror.
    failures = list({key(row): row for row in [*recorded, *tally.failures]}.values())
    counts = Counter(row["status"] for row in failures)
    run = replace(tally.run(), unsupported=counts["unsupported"], failed=counts["failed"])
    if failures:
        click.echo(failure_table(failures))
    dest, usable = redact(job.dest), len(tables.usable)
    run_files.write_summary(store, run, dest, usable)
    page.leave(store, tables)
    example = tables.usable.last(wanted, by=KEY)
    click.echo(closing(run, dest, usable, example, options=bool(job.dest_options)))
    if not run.left:
        return FAILED if run.failed or run.postponed else OK
    left = f"{run.left:,} of {counted(len(tally.requests), 'model')} left"
    whys = [f"{each.place} is out of reach ({each.task}: {each.reason})" for each in tally.down]
    why = " and ".join(whys) or f"after {config.max_hours:g} h (--max-hours)"
    stopped = "stopped, because" if whys else "stopped"
    click.echo(f"{stopped} {why}, with {left}; run the same command again to resume")
    return STOPPED
