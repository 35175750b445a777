"""What the mirror holds and what it doesn't: records, and the two tables made from them.

Records are the truth. Each is one model's outcomes in one run, one JSON object, written once and
never changed. `compact` merges all of them into manifest.parquet (the usable variants) and
failures.parquet (the rest), whole files that are replaced only if nobody else did meanwhile.
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
from zooadapt.stores.store import Store
from zooadapt.types import Row

MANIFEST = "manifest.parquet"
FAILURES = "failures.parquet"
PAGE = "index.html"
"""For people, beside the tables and made from them."""

_log = logging.getLogger("zooadapt")

_SCHEMAS = {MANIFEST: MANIFEST_SCHEMA, FAILURES: FAILURES_SCHEMA}


def read_records(store: Store) -> list[Row]:
    """All records, the oldest first; damaged records are named in the log and left out.

    Raises RunError naming a record of a newer layout.
    """
    return sorted((record for history in histories(store) for record in history), key=age)


def histories(store: Store) -> Iterator[list[Row]]:
    """The same, model by model: the records of each, the oldest first."""
    records = Records(store)
    yield from records.histories()
    records.warn_of_damaged()


def scan_records(store: Store) -> tuple[list[Row], dict[str, Damaged]]:
    """All records, each read itself, the oldest first, and what is wrong with the damaged ones.

    Raises RunError naming a record of a newer layout.
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
    """The two tables as they are written."""

    usable: layout.Encoded
    failures: layout.Encoded


def merge(records: Sequence[Row]) -> Tables:
    """The rows of the manifest and of the failures, from records oldest first.

    A variant's latest success wins and hides its failures; else its latest failure is kept, with
    the number of runs that failed. What was removed is a failure, whatever else is recorded of it
    (see `takedowns`). A record that ``amends`` columns changes what they say of a variant, if it
    is still the latest.
    """
    successes: dict[tuple[Any, ...], Row] = {}
    failures: dict[tuple[Any, ...], Row] = {}
    taken = takedowns.Takedowns(records)
    for place, record in enumerate(records):
        for stated in [*record["variants"], *record["failures"]]:
            row = {"zoo": record["zoo"], "model": record["model"], **stated}
            name = key(row)
            if taken.voids(place, row):
                if (event := taken.of(row)) and event.removes:
                    failures[name] = columns.removed_row(row, event.reason, event.run_id)
            elif "status" in stated:
                attempts = failures.get(name, {}).get("attempts", 0) + 1
                failures[name] = columns.failure_row(record, stated, attempts)
            else:
                made = columns.manifest_row(record, stated)
                successes[name] = _latest(record, made, successes.get(name))
    left = [failures[name] for name in sorted(failures.keys() - successes.keys())]
    return Tables([successes[name] for name in sorted(successes)], left)


def _latest(record: Row, row: Row, current: Row | None) -> Row:
    """The success that counts after a record has stated `row`, given the success before it."""
    amended = record.get("amends")
    if not amended or not current:
        return row
    if current["folder"] != row["folder"]:  # other weights, made meanwhile
        return current
    return columns.amended_row(current, row, amended)


@retry(
    retry=retry_if_exception_type(Conflict),
    stop=stop_after_attempt(100),
    wait=wait_random_exponential(multiplier=0.05, max=5),
    reraise=True,
)
def compact(store: Store, records: Records | None = None) -> Compacted:
    """Make manifest.parquet and failures.parquet from all records.

    Of `records` that keep what they read only those that are new are read from the store.

    Each is replaced only if it is still the one that was there before the records were read;
    otherwise, a lost answer included, all is read again. Safe beside other jobs on the mirror.
    Damaged records are left out. Of what a model has recorded no more is held in memory than its
    rows, as they are written. Raises RunError for a record or a table of a newer layout.
    """
    with store.exclusive():
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
    """manifest.parquet, of now or as a run left it, or failures.parquet.

    Raises UsageError where there is none; RunError where it is of a newer layout, or Damaged.
    """
    try:
        schema = _SCHEMAS[posixpath.basename(name)]
        return layout.decoded(store.read(name), store.path(name), schema)
    except FileNotFoundError as cause:
        raise UsageError(f"{store.root} holds no {name}") from cause


def read_snapshot(store: Store, at: str) -> pa.Table:
    """The manifest as a run left it, by the run's id, or as it was at a date or time (of UTC).

    A date means the end of its day, and needs a store that can be listed. Raises UsageError where
    there is no such run or `at` is neither; RunError as `read_table`.
    """
    try:
        when = datetime.fromisoformat(at)
    except ValueError:
        return read_table(store, snapshot(at))
    if len(at) == len("2026-11-24"):
        when += timedelta(days=1)
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    until = (
        [record for record in history if datetime.fromisoformat(record["created_at"]) <= when]
        for history in histories(store)
    )
    return layout.decoded(_compacted(until).usable.data, MANIFEST, MANIFEST_SCHEMA)


def snapshot(run_id: str) -> str:
    """The key of the manifest that a run left."""
    return f"runs/{run_id}/{MANIFEST}"


def check_tables(store: Store) -> None:
    """Name in the log a table that is damaged; the next compaction makes it again.

    Raises RunError for one of a newer layout.
    """
    for name, schema in _SCHEMAS.items():
        try:
            layout.check(store.read(name), store.path(name), schema)
        except FileNotFoundError:
            pass
        except Damaged as error:
            _log.warning("%s", error)
