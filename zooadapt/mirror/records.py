"""One record: a model's outcomes in one run, as one JSON object that is never changed.

A record's key is ``records/<zoo>/<model>/<run_id>-….json``. Its head names the model, the run and
the source. Its lists `variants` and `failures` hold one row for each target (see `columns`).
"""

import json
import posixpath
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pyarrow as pa

from zooadapt.errors import Damaged, RunError, reason
from zooadapt.mirror import layout, takedowns
from zooadapt.mirror.columns import (
    FAILURES_SCHEMA,
    LAYOUT_VERSION,
    MANIFEST_SCHEMA,
    REMOVING,
    stated_schema,
)
from zooadapt.names import safe
from zooadapt.stores.store import Store
from zooadapt.types import Row

ADAPTER_VERSION = 1
"""Raise this number when a checkpoint would be adapted to other bytes: all models are then due."""

_FIELDS = {"zoo": str, "model": str, "run_id": str, "created_at": str, "adapter_version": int,
           "source": dict, "variants": list, "failures": list}  # fmt: skip


def write_record(
    store: Store, zoo: str, model: str, run_id: str, content: Mapping[str, Any]
) -> str:
    """Write one model's outcomes in one run as a new record; returns its key.

    `content` holds the record's other fields. With patterns under ``removed`` or ``restored`` the
    record gets the layout version `REMOVING`.
    """
    key = f"records/{safe(zoo)}/{safe(model)}/{run_id}-{uuid.uuid4().hex[:6]}.json"
    removing = any(content.get(kind) for kind in takedowns.LISTS)
    version = REMOVING if removing else LAYOUT_VERSION
    head = {"layout_version": version, "zoo": zoo, "model": model, "run_id": run_id}
    store.write(key, [json.dumps({**content, **head}, indent=1).encode()])
    return key


def age(record: Row) -> tuple[str, str]:
    """The sort key of records: the oldest comes first."""
    return record["created_at"], record["run_id"]


def folder(key: str) -> str:
    """The record's folder, lower-cased, because some stores ignore case.

    On such a store, models whose names differ only in case share a folder. After a copy to another
    store, the records of one model can lie in two folders whose names differ only in case.
    """
    return posixpath.dirname(key).lower()


def folder_of(zoo: str, model: str) -> str:
    """The `folder` of a model's records."""
    return f"records/{safe(zoo)}/{safe(model)}".lower()


def order(key: str) -> str:
    """What object keys are sorted by: their parts, so that "net/…" comes before "net-a/…"."""
    return key.lower().replace("/", "\0")


def parse(
    contents: Mapping[str, bytes], known: Collection[str] = ()
) -> tuple[dict[str, Row], dict[str, Damaged]]:
    """The sound records, and what is wrong with each damaged record; both by key.

    Rows of records in `known` aren't checked, because they were found sound before. Raises RunError
    for a record of a newer layout.
    """
    sound: dict[str, Row] = {}
    damaged: dict[str, Damaged] = {}
    for key, data in contents.items():
        with _noted(key, damaged):
            sound[key] = _parsed(key, data)
    new = {key: record for key, record in sound.items() if key not in known}
    try:  # checking all records together takes a fraction of the time of checking each
        _check_rows([*new.values()])
    except Exception:
        for key, record in new.items():
            with _noted(key, damaged):
                _check_rows([record])
    return {key: record for key, record in sound.items() if key not in damaged}, damaged


@contextmanager
def _noted(key: str, damaged: dict[str, Damaged]) -> Iterator[None]:
    """Put the block's error into `damaged`; let RunError (a record of a newer layout) through."""
    try:
        yield
    except RunError:
        raise
    except Exception as cause:
        error = Damaged(f"{key} is damaged ({reason(cause)})")
        error.__cause__ = cause
        damaged[key] = error


def _parsed(key: str, data: bytes) -> Row:
    """The record, with its rows unchecked. Raises RunError for a record of a newer layout."""
    found: Row = json.loads(data)
    version: int = found["layout_version"]
    if version > REMOVING:
        raise layout.newer(key, version)
    for name, kind in _FIELDS.items():
        if not isinstance(found[name], kind):
            raise TypeError(f"{name} is {found[name]!r}, not of type {kind.__name__}")
    datetime.fromisoformat(found["created_at"])
    takedowns.check(found)
    if not isinstance(found.get("amends", []), list):
        raise TypeError(f"amends is {found['amends']!r}, not of type list")
    if folder(key) != folder_of(found["zoo"], found["model"]):
        raise ValueError(f"it is about {found['model']}, whose records lie elsewhere")
    return found


def _check_rows(records: list[Row]) -> None:
    """Raise where a row lacks a column, or has a value that the column can't hold."""
    _check([row for record in records for row in record["variants"]], MANIFEST_SCHEMA)
    _check([row for record in records for row in record["failures"]], FAILURES_SCHEMA)


def _check(rows: list[Row], schema: pa.Schema) -> None:
    fields = stated_schema(schema)
    found = layout.table(rows, fields)
    for field in fields:
        if found[field.name].null_count and not field.nullable:
            raise ValueError(f"{field.name} is null in a row")
