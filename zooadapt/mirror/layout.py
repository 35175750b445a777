"""The layout of records and tables: how tables are written, and what is refused when it is read.

A file of a newer layout is refused with RunError: it can't be judged. One that can't be understood,
or holds other types than it should, is Damaged.
"""

import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zooadapt.errors import Damaged, RunError, one_line
from zooadapt.mirror import takedowns

LAYOUT_VERSION = 1
REMOVING = 2
"""The layout of records that remove something: who doesn't know them would bring it back."""
VERSION_KEY = "zooadapt_layout_version"
"""Under which a table's Parquet metadata state its layout."""

Row = dict[str, Any]

_FORMAT = {"compression": "zstd", "write_page_checksum": True}
_GROUP = 5_000
"""Rows of a row group: those of `Writer` and `parts` that are in memory as such."""

_HEAD = {"zoo": str, "model": str, "run_id": str, "created_at": str, "adapter_version": int,
         "source": dict, "variants": list, "failures": list}  # fmt: skip
FROM_HEAD = {*_HEAD, "attempts"}
"""Columns of the tables that a record doesn't state for each variant."""


def encoded(rows: pa.Table) -> bytes:
    """A table as Parquet, with a checksum of every page."""
    buffer = BytesIO()
    pq.write_table(rows, buffer, **_FORMAT)
    return buffer.getvalue()


class Writer:
    """A table as Parquet, as `encoded`, of which only some rows are held as such at a time."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[Row] = []
        self._buffer = BytesIO()
        self._file = pq.ParquetWriter(self._buffer, schema, **_FORMAT)

    def add(self, rows: Iterable[Row]) -> None:
        """Raises KeyError for a column that they lack, see `table`."""
        self._rows += rows
        if len(self._rows) >= _GROUP:
            self._write()

    def close(self) -> bytes:
        """The whole."""
        self._write()
        self._file.close()
        return self._buffer.getvalue()

    def _write(self) -> None:
        self._file.write_table(table(self._rows, self._schema))
        self._rows = []


class Encoded:
    """Rows in the form of such a table, which are decoded as they are asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._file = pq.ParquetFile(BytesIO(data))

    @property
    def stated(self) -> dict[str, str]:
        """What its metadata state."""
        return _stated(self._file)

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def __iter__(self) -> Iterator[Row]:
        for group in range(self._file.num_row_groups):
            yield from self._file.read_row_group(group).to_pylist()

    def last(self, wanted: Callable[[Row], bool], by: Sequence[str]) -> Row | None:
        """The last of the rows that are wanted, which only the columns `by` tell."""
        for group in reversed(range(self._file.num_row_groups)):
            told = self._file.read_row_group(group, columns=list(by)).to_pylist()
            for place in reversed(range(len(told))):
                if wanted(told[place]):
                    found: list[Row] = self._file.read_row_group(group).slice(place, 1).to_pylist()
                    return found[0]
        return None


def columns(rows: Iterable[Row], schema: pa.Schema) -> list[Row]:
    """The rows as a table would give them back."""
    found: list[Row] = table(rows, schema).to_pylist()
    return found


def table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """The rows as a table of that schema; they may have more columns, and lack nullable ones.

    Raises KeyError for any other that they lack.
    """
    held = list(rows)

    def values(field: pa.Field) -> list[Any]:
        name = field.name
        return [row.get(name) for row in held] if field.nullable else [row[name] for row in held]

    columns = [pa.array(values(field), field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def parts(data: bytes, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """What `Writer` wrote, in row groups; `name` is for the errors. Raises Damaged and RunError.

    Nullable columns that it lacks, as it is older than they are, are added without values.
    """
    try:
        with pq.ParquetFile(BytesIO(data), page_checksum_verification=True) as file:
            version = int(_stated(file)[VERSION_KEY])
            if version <= LAYOUT_VERSION:
                groups = map(file.read_row_group, range(file.num_row_groups))
                for group in itertools.chain([file.schema_arrow.empty_table()], groups):
                    found = _with_later(group, schema)
                    found.select(schema.names).cast(schema)  # raises where they don't fit
                    yield found
                return
    except Exception as cause:  # the bytes are in memory: whatever it is, it is wrong with them
        raise Damaged(
            f"{name} is damaged ({reason(cause)}): zooadapt rebuild makes it again from the records"
        ) from cause
    raise _newer(name, version)


def _stated(file: pq.ParquetFile) -> dict[str, str]:
    found: dict[bytes, bytes] = file.metadata.metadata or {}
    return {key.decode(): value.decode() for key, value in found.items()}


def refuse_newer(data: bytes, name: str) -> None:
    """Raise RunError for a table of a newer layout; of one that is damaged nothing is told."""
    with suppress(pa.ArrowException, OSError, KeyError, ValueError):
        version = int(Encoded(data).stated[VERSION_KEY])
        if version > LAYOUT_VERSION:
            raise _newer(name, version)


def check(data: bytes, name: str, schema: pa.Schema) -> None:
    """Raise as `parts` does, without holding all of it."""
    for _ in parts(data, name, schema):
        pass


def decoded(data: bytes, name: str, schema: pa.Schema) -> pa.Table:
    """All of it, as `parts`."""
    return pa.concat_tables(parts(data, name, schema))


def _with_later(found: pa.Table, schema: pa.Schema) -> pa.Table:
    for field in schema:
        if field.nullable and field.name not in found.schema.names:
            found = found.append_column(field, pa.nulls(len(found), field.type))
    return found


def records(
    found: Mapping[str, bytes],
    variants: pa.Schema,
    failures: pa.Schema,
    known: Collection[str] = (),
) -> tuple[dict[str, Row], dict[str, Damaged]]:
    """The sound ones of records by their names, and what is wrong with the others.

    `variants` and `failures` say the types; the rows of those in `known` have them. Raises RunError
    for one of a newer layout.
    """
    sound: dict[str, Row] = {}
    damaged: dict[str, Damaged] = {}
    for name, data in found.items():
        with _noted(name, damaged):
            sound[name] = _parsed(data, name)
    new = {name: each for name, each in sound.items() if name not in known}
    try:  # all together takes a fraction of the time
        _check_rows([row for each in new.values() for row in each["variants"]], variants)
        _check_rows([row for each in new.values() for row in each["failures"]], failures)
    except Exception:
        for name, each in new.items():
            with _noted(name, damaged):
                _check_rows(each["variants"], variants)
                _check_rows(each["failures"], failures)
    return {name: each for name, each in sound.items() if name not in damaged}, damaged


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
