"""The mirror's two tables, and how they are merged from its records.

Records are the truth. Each is one model's outcomes in one run: one JSON object, written once and
never changed. `compact` merges all records into manifest.parquet (the usable variants) and
failures.parquet (variants that were asked for and aren't usable). A table is replaced as a whole,
and only if nobody else has replaced it meanwhile.
"""

import logging
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import pyarrow as pa
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from zooadapt.errors import Conflict, Damaged, UsageError
from zooadapt.mirror import columns, layout, takedowns
from zooadapt.mirror.columns import FAILURES_SCHEMA, MANIFEST_SCHEMA, key
from zooadapt.mirror.records import age
from zooadapt.mirror.scan import Records
from zooadapt.names import MANIFEST as MANIFEST
from zooadapt.stores.store import Store
from zooadapt.types import Row

FAILURES = "failures.parquet"
PAGE = "index.html"
"""The page for people: made from the tables, and written beside them."""

_log = logging.getLogger("zooadapt")

_SCHEMAS = {MANIFEST: MANIFEST_SCHEMA, FAILURES: FAILURES_SCHEMA}


def read_records(store: Store) -> list[Row]:
    """All sound records, the oldest first. Damaged records are left out and named in the log.

    Raises RunError for a record of a newer layout.
    """
    return sorted((record for history in histories(store) for record in history), key=age)


def histories(store: Store) -> Iterator[list[Row]]:
    """The records that `read_records` gives, as one list for each model. Raises as it does."""
    records = Records(store)
    yield from records.histories()
    records.warn_of_damaged()


def scan_records(store: Store) -> tuple[list[Row], dict[str, Damaged]]:
    """All sound records, the oldest first, and what is wrong with each damaged record, by key.

    Every record is read from its own object, not from the archive. Raises RunError for a record of
    a newer layout.
    """
    records = Records(store, archived=False)
    found = [record for history in records.histories() for record in history]
    return sorted(found, key=age), records.damaged


@dataclass(frozen=True)
class Tables:
    """The rows of the two tables, each sorted by key."""

    usable: list[Row]
    failures: list[Row]


@dataclass(frozen=True)
class Compacted:
    """The two tables as Parquet files."""

    usable: layout.Encoded
    failures: layout.Encoded


def merge(records: Sequence[Row]) -> Tables:
    """The rows of the two tables. The records must come oldest first.

    A variant with a success is in the manifest as its latest success states it, and its failures
    are hidden. A variant without one is in the failures as its latest failure states it, with the
    number of runs that failed. A variant that is taken down is in the failures, whatever else is
    recorded of it (see `takedowns`). A record that ``amends`` columns changes only these columns
    of a variant's row, and only if the row's weights are still the ones that the record knew.
    """
    successes: dict[tuple[Any, ...], Row] = {}
    failures: dict[tuple[Any, ...], Row] = {}
    taken = takedowns.Takedowns(records)
    for place, record in enumerate(records):
        for stated in [*record["variants"], *record["failures"]]:
            row = {"zoo": record["zoo"], "model": record["model"], **stated}
            variant = key(row)
            if taken.voids(place, row):
                if (event := taken.of(row)) and event.removes:
                    failures[variant] = columns.removed_row(row, event.reason, event.run_id)
            elif "status" in stated:
                attempts = failures.get(variant, {}).get("attempts", 0) + 1
                failures[variant] = columns.failure_row(record, stated, attempts)
            else:
                success = columns.manifest_row(record, stated)
                successes[variant] = _latest(record, success, successes.get(variant))
    failed = [failures[variant] for variant in sorted(failures.keys() - successes.keys())]
    return Tables([successes[variant] for variant in sorted(successes)], failed)


def _latest(record: Row, row: Row, current: Row | None) -> Row:
    """The manifest's row once `record` has stated `row`; `current` is the row before that."""
    amended = record.get("amends")
    if not amended or not current:
        return row
    if current["folder"] != row["folder"]:  # the weights were replaced meanwhile
        return current
    return columns.amended_row(current, row, amended)


@retry(
    retry=retry_if_exception_type(Conflict),
    stop=stop_after_attempt(100),
    wait=wait_random_exponential(multiplier=0.05, max=5),
    reraise=True,
)
def compact(store: Store, records: Records | None = None) -> Compacted:
    """Make manifest.parquet and failures.parquet from all sound records; safe beside other jobs.

    A table is replaced only if it is still the one from before the records were read. If it isn't,
    or the store's answer was lost, everything is read again; Conflict is raised after 100 tries.
    With `records` that keep what they have read, only new records are read from the store.

    Memory holds one batch of records at a time, and the tables in their compressed form. Raises
    RunError for a record or a table of a newer layout.
    """
    versions = [store.version(name) for name in (MANIFEST, FAILURES)]
    records = records or Records(store)
    tables = _compacted(records.histories(archiving=True))
    _replace(store, MANIFEST, tables.usable.data, versions[0])
    _replace(store, FAILURES, tables.failures.data, versions[1])
    records.leave_archive()
    return tables


def _compacted(histories: Iterable[Sequence[Row]]) -> Compacted:
    files = BytesIO(), BytesIO()
    usable, failures = map(layout.Writer, _SCHEMAS.values(), files)
    for records in histories:
        tables = merge(records)
        usable.add(tables.usable)
        failures.add(tables.failures)
    usable.close()
    failures.close()
    return Compacted(*map(layout.Encoded, files))


def _replace(store: Store, name: str, data: bytes, version: str | None) -> None:
    if version is not None:
        before = store.read(name)
        if before == data:
            return
        layout.refuse_newer(before, name)
    store.replace(name, data, version)


def read_table(store: Store, name: str) -> pa.Table:
    """The table with the key `name`: a manifest, the current one or a run's, or failures.parquet.

    Raises UsageError where the table doesn't exist, RunError where it is of a newer layout, and
    Damaged where it can't be understood.
    """
    try:
        schema = _SCHEMAS[posixpath.basename(name)]
        return layout.decoded(store.read(name), store.path(name), schema)
    except FileNotFoundError as cause:
        raise UsageError(f"{store.url} holds no {name}: check the mirror's URL") from cause


def read_snapshot(store: Store, at: str) -> pa.Table:
    """The manifest as it was at `at`: the id of the run that left it, or a date or time in UTC.

    A date means the end of that day. For a date or time the manifest is made from the records, so
    the store must be able to list them. Raises as `read_table` does, with UsageError where `at` is
    neither a date nor the id of a run that left a manifest.
    """
    try:
        when = datetime.fromisoformat(at)
    except ValueError:
        return read_table(store, snapshot(at))
    if len(at) == len("2026-11-24"):
        when += timedelta(days=1)
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    past = (
        [record for record in history if datetime.fromisoformat(record["created_at"]) <= when]
        for history in histories(store)
    )
    return layout.decoded(_compacted(past).usable.data, MANIFEST, MANIFEST_SCHEMA)


def snapshot(run_id: str) -> str:
    """The key of the manifest that a run left."""
    return f"runs/{run_id}/{MANIFEST}"


def check_tables(store: Store) -> None:
    """Name each damaged table in the log. The next compaction makes it again.

    Raises RunError for a table of a newer layout.
    """
    for name, schema in _SCHEMAS.items():
        try:
            layout.check(store.read(name), store.path(name), schema)
        except FileNotFoundError:
            pass
        except Damaged as error:
            _log.warning("%s", error)
