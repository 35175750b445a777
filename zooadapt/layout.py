"""The layout of records and tables: how tables are written, and what is refused when it is read.

A file of a newer layout is refused with RunError: it can't be judged. One that can't be understood,
or holds other types than it should, is Damaged.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zooadapt import takedowns
from zooadapt.errors import Damaged, RunError, one_line

LAYOUT_VERSION = 1
REMOVING = 2
"""The layout of records that remove something: who doesn't know them would bring it back."""
VERSION_KEY = "zooadapt_layout_version"
"""Under which a table's Parquet metadata state its layout."""

Row = dict[str, Any]

_HEAD = {"zoo": str, "model": str, "run_id": str, "created_at": str, "adapter_version": int,
         "source": dict, "variants": list, "failures": list}  # fmt: skip
FROM_HEAD = {*_HEAD, "attempts"}
"""Columns of the tables that a record doesn't state for each variant."""


def encoded(rows: pa.Table) -> bytes:
    """A table as Parquet, with a checksum of every page."""
    buffer = BytesIO()
    pq.write_table(rows, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def columns(rows: Iterable[Row], schema: pa.Schema) -> list[Row]:
    """The rows as a table would give them back."""
    found: list[Row] = table(rows, schema).to_pylist()
    return found


def table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """The rows as a table of that schema; they may have more columns, and lack nullable ones.

    Raises KeyError for any other that they lack.
    """
    later = {field.name: None for field in schema if field.nullable}
    whole = ({**later, **row} for row in rows)
    named = [{name: row[name] for name in schema.names} for row in whole]
    return pa.Table.from_pylist(named, schema)


def decoded(data: bytes, name: str, schema: pa.Schema) -> pa.Table:
    """The table that `encoded` made; `name` is for the errors. Raises Damaged and RunError.

    Nullable columns that it lacks, as it is older than they are, are added without values.
    """
    try:
        with pq.ParquetFile(BytesIO(data), page_checksum_verification=True) as file:
            stated = {key.decode(): value for key, value in (file.metadata.metadata or {}).items()}
            version = int(stated[VERSION_KEY])
            if version <= LAYOUT_VERSION:
                found = _with_later(file.read(), schema)
                found.select(schema.names).cast(schema)  # raises where they don't fit
                return found
    except Exception as cause:  # the bytes are in memory: whatever it is, it is wrong with them
        raise Damaged(
            f"{name} is damaged ({reason(cause)}): zooadapt rebuild makes it again from the records"
        ) from cause
    raise _newer(name, version)


def _with_later(found: pa.Table, schema: pa.Schema) -> pa.Table:
    for field in schema:
        if field.nullable and field.name not in found.schema.names:
            found = found.append_column(field, pa.nulls(len(found), field.type))
    return found


def records(
    found: Mapping[str, bytes], variants: pa.Schema, failures: pa.Schema
) -> tuple[list[Row], dict[str, Damaged]]:
    """The sound ones of records by their names, and what is wrong with the others.

    `variants` and `failures` say the types. Raises RunError for one of a newer layout.
    """
    sound: dict[str, Row] = {}
    damaged: dict[str, Damaged] = {}
    for name, data in found.items():
        with _noted(name, damaged):
            sound[name] = _parsed(data, name)
    try:  # all together takes a fraction of the time
        _check_rows([row for each in sound.values() for row in each["variants"]], variants)
        _check_rows([row for each in sound.values() for row in each["failures"]], failures)
    except Exception:
        for name, each in sound.items():
            with _noted(name, damaged):
                _check_rows(each["variants"], variants)
                _check_rows(each["failures"], failures)
    return [each for name, each in sound.items() if name not in damaged], damaged


@contextmanager
def _noted(name: str, damaged: dict[str, Damaged]) -> Iterator[None]:
    """What goes wrong with a record is that it is damaged, unless it is of a newer layout."""
    try:
        yield
    except RunError:
        raise
    except Exception as cause:
        error = Damaged(f"{name} is damaged ({reason(cause)})")
        error.__cause__ = cause
        damaged[name] = error


def _parsed(data: bytes, name: str) -> Row:
    """A record whose rows weren't looked at. Raises RunError for one of a newer layout."""
    found: Row = json.loads(data)
    version: int = found["layout_version"]
    if version > REMOVING:
        raise _newer(name, version)
    for key, kind in _HEAD.items():
        if not isinstance(found[key], kind):
            raise TypeError(f"{key} is {found[key]!r}")
    datetime.fromisoformat(found["created_at"])
    takedowns.check(found)
    if not isinstance(found.get("amends", []), list):
        raise TypeError(f"amends is {found['amends']!r}")
    return found


def _check_rows(rows: list[Row], schema: pa.Schema) -> None:
    """Raise where a row lacks a column, or has a value that the column can't hold."""
    fields = pa.schema([field for field in schema if field.name not in FROM_HEAD])
    found = table(rows, fields)
    for field in fields:
        if found[field.name].null_count and not field.nullable:
            raise ValueError(f"{field.name} is null")


def reason(cause: Exception) -> str:
    """What is wrong with a file's content, from the error that it led to."""
    return f"it has no {cause}" if isinstance(cause, KeyError) else one_line(cause)


def _newer(name: str, version: int) -> RunError:
    return RunError(f"{name} was written by a newer zooadapt (layout {version}): upgrade zooadapt")
