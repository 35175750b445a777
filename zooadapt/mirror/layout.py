"""The mirror's Parquet files: how they are written, and which ones a reader refuses.

Reading a file of a newer layout raises RunError, because this zooadapt can't tell whether the file
is sound. Reading a file that can't be parsed, or whose columns are wrong, raises Damaged.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from zooadapt.errors import Damaged, RunError, reason
from zooadapt.mirror.columns import LAYOUT_VERSION, OLDER, VERSION_KEY
from zooadapt.types import Row

_FORMAT = {"compression": "zstd", "write_page_checksum": True}
_GROUP = 5_000
"""The number of rows in a row group: `Writer` and `parts` hold about one group in memory."""


def encoded(rows: pa.Table) -> bytes:
    """The table as a Parquet file, in which every page has a checksum."""
    buffer = BytesIO()
    pq.write_table(rows, buffer, **_FORMAT)
    return buffer.getvalue()


class Writer:
    """Writes rows as a Parquet file like that of `encoded`, one row group after the other."""

    def __init__(self, schema: pa.Schema, sink: IO[bytes]) -> None:
        """The file's bytes go to `sink`, which stays open."""
        self._schema = schema
        self._rows: list[Row] = []
        self._file = pq.ParquetWriter(sink, schema, **_FORMAT)

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows. Where they lack a column, this or a later call raises KeyError, see `table`."""
        self._rows += rows
        if len(self._rows) >= _GROUP:
            self._write()

    def close(self) -> None:
        """Write the remaining rows, and the file's footer."""
        self._write()
        self._file.close()

    def _write(self) -> None:
        self._file.write_table(table(self._rows, self._schema))
        self._rows = []


class Encoded:
    """The rows of a Parquet file, decoded one row group at a time."""

    def __init__(self, file: IO[bytes]) -> None:
        """`file` holds a whole Parquet file, and can seek."""
        self.file = file
        self._parquet = pq.ParquetFile(file)

    @property
    def data(self) -> bytes:
        """The file's bytes."""
        self.file.seek(0)
        return self.file.read()

    @property
    def stated(self) -> dict[str, str]:
        """The file's own metadata, by key."""
        return _metadata(self._parquet)

    def __len__(self) -> int:
        return int(self._parquet.metadata.num_rows)

    def __iter__(self) -> Iterator[Row]:
        return self.rows()

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """The rows in order, with the given columns or with all."""
        for group in range(self._parquet.num_row_groups):
            yield from self._parquet.read_row_group(group, columns=columns).to_pylist()

    def last(self, wanted: Callable[[Row], bool], by: Sequence[str]) -> Row | None:
        """The last row for which `wanted` is true, or None; `wanted` sees the columns `by` only."""
        for group in reversed(range(self._parquet.num_row_groups)):
            narrow = self._parquet.read_row_group(group, columns=list(by)).to_pylist()
            for index in reversed(range(len(narrow))):
                if wanted(narrow[index]):
                    found: list[Row] = (
                        self._parquet.read_row_group(group).slice(index, 1).to_pylist()
                    )
                    return found[0]
        return None


def table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """The rows as a table of that schema. Columns that the schema doesn't have are left out.

    Where a row lacks a column of `columns.OLDER`, the cell gets the value from there. Raises
    KeyError where a row lacks any other column.
    """
    held = list(rows)

    def values(name: str) -> list[Any]:
        if name in OLDER:
            return [row.get(name, OLDER[name]) for row in held]
        return [row[name] for row in held]

    arrays = [pa.array(values(field.name), field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def parts(data: bytes, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """The row groups of a file that `Writer` or `encoded` wrote, after an empty table.

    Where the file lacks a column of `columns.OLDER`, it is added with the value from there. Errors
    call the file `name`. Raises Damaged where the file can't be understood, RunError where its
    layout is newer.
    """
    try:
        with pq.ParquetFile(BytesIO(data), page_checksum_verification=True) as file:
            version = int(_metadata(file)[VERSION_KEY])
            if version <= LAYOUT_VERSION:
                groups = map(file.read_row_group, range(file.num_row_groups))
                for group in itertools.chain([_empty(file.schema_arrow)], groups):
                    found = _with_later(group, schema)
                    found.select(schema.names).cast(schema)  # raises for a wrong column
                    yield found
                return
    except Exception as cause:  # the bytes are in memory, so any error is their fault
        raise Damaged(
            f"{name} is damaged ({reason(cause)}): zooadapt rebuild makes it again from the records"
        ) from cause
    raise newer(name, version)


def _empty(schema: pa.Schema) -> pa.Table:
    """A table without rows. `pa.Schema.empty_table` would import pandas, which takes a while."""
    return pa.Table.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def _metadata(file: pq.ParquetFile) -> dict[str, str]:
    found: dict[bytes, bytes] = file.metadata.metadata or {}
    return {key.decode(): value.decode() for key, value in found.items()}


def refuse_newer(data: bytes, name: str) -> None:
    """Raise RunError for a table of a newer layout. A damaged table raises nothing."""
    with suppress(pa.ArrowException, OSError, KeyError, ValueError):
        version = int(Encoded(BytesIO(data)).stated[VERSION_KEY])
        if version > LAYOUT_VERSION:
            raise newer(name, version)


def check(data: bytes, name: str, schema: pa.Schema) -> None:
    """Raise as `parts` does; holds one row group in memory at a time."""
    for _ in parts(data, name, schema):
        pass


def decoded(data: bytes, name: str, schema: pa.Schema) -> pa.Table:
    """The whole table. Raises as `parts` does."""
    return pa.concat_tables(parts(data, name, schema))


def _with_later(found: pa.Table, schema: pa.Schema) -> pa.Table:
    for field in schema:
        if field.name in OLDER and field.name not in found.schema.names:
            value = OLDER[field.name]
            values = (
                pa.nulls(len(found), field.type)
                if value is None
                else pa.array([value] * len(found), field.type)
            )
            found = found.append_column(field, values)
    others = [name for name in found.schema.names if name not in schema.names]
    there = [name for name in schema.names if name in found.schema.names]
    return found.select([*there, *others])


def newer(name: str, version: int) -> RunError:
    """The error for a file of a newer layout."""
    return RunError(f"{name} was written by a newer zooadapt (layout {version}): upgrade zooadapt")
