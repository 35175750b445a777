"""Parquet files of the mirror: how they are written, and what is refused when one is read.

A file of a newer layout is refused with RunError, as this zooadapt can't judge it. A file that
can't be understood, or holds other types than it should, is Damaged.
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
"""Rows of a row group: `Writer` and `parts` hold so many rows in memory as such."""


def encoded(rows: pa.Table) -> bytes:
    """A table as Parquet, with a checksum of every page."""
    buffer = BytesIO()
    pq.write_table(rows, buffer, **_FORMAT)
    return buffer.getvalue()


class Writer:
    """Writes a table as Parquet, as `encoded` does, and holds only some rows at a time."""

    def __init__(self, schema: pa.Schema, sink: IO[bytes]) -> None:
        """The file goes to `sink`, which stays open."""
        self._schema = schema
        self._rows: list[Row] = []
        self._file = pq.ParquetWriter(sink, schema, **_FORMAT)

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows. Raises KeyError for a column that they lack, see `table`."""
        self._rows += rows
        if len(self._rows) >= _GROUP:
            self._write()

    def close(self) -> None:
        """Write what is left, and the file's end."""
        self._write()
        self._file.close()

    def _write(self) -> None:
        self._file.write_table(table(self._rows, self._schema))
        self._rows = []


class Encoded:
    """The rows of a Parquet file, which are decoded as they are asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        """`file` holds the whole file; it is read from its beginning."""
        self.file = file
        self._parquet = pq.ParquetFile(file)

    @property
    def data(self) -> bytes:
        """The file's bytes."""
        self.file.seek(0)
        return self.file.read()

    @property
    def stated(self) -> dict[str, str]:
        """What the file's metadata state."""
        return _stated(self._parquet)

    def __len__(self) -> int:
        return int(self._parquet.metadata.num_rows)

    def __iter__(self) -> Iterator[Row]:
        return self.rows()

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """The rows in order, with these columns or all."""
        for group in range(self._parquet.num_row_groups):
            yield from self._parquet.read_row_group(group, columns=columns).to_pylist()

    def last(self, wanted: Callable[[Row], bool], by: Sequence[str]) -> Row | None:
        """The last row that is wanted, as only the columns `by` tell; None where none is."""
        for group in reversed(range(self._parquet.num_row_groups)):
            told = self._parquet.read_row_group(group, columns=list(by)).to_pylist()
            for place in reversed(range(len(told))):
                if wanted(told[place]):
                    found: list[Row] = (
                        self._parquet.read_row_group(group).slice(place, 1).to_pylist()
                    )
                    return found[0]
        return None


def columns(rows: Iterable[Row], schema: pa.Schema) -> list[Row]:
    """The rows as a table would give them back."""
    found: list[Row] = table(rows, schema).to_pylist()
    return found


def table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """The rows as a table of that schema. Other columns of theirs are left out.

    A column of `columns.OLDER` that a row lacks has its value from there. Raises KeyError for any
    other column that a row lacks.
    """
    held = list(rows)

    def values(name: str) -> list[Any]:
        if name in OLDER:
            return [row.get(name, OLDER[name]) for row in held]
        return [row[name] for row in held]

    arrays = [pa.array(values(field.name), field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def parts(data: bytes, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """The row groups of a file that `Writer` wrote; `name` is for the errors.

    A column of `columns.OLDER` that the file lacks is added with its value from there. Raises
    Damaged and RunError.
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
    raise newer(name, version)


def _stated(file: pq.ParquetFile) -> dict[str, str]:
    found: dict[bytes, bytes] = file.metadata.metadata or {}
    return {key.decode(): value.decode() for key, value in found.items()}


def refuse_newer(data: bytes, name: str) -> None:
    """Raise RunError for a table of a newer layout; nothing is said of a damaged one."""
    with suppress(pa.ArrowException, OSError, KeyError, ValueError):
        version = int(Encoded(BytesIO(data)).stated[VERSION_KEY])
        if version > LAYOUT_VERSION:
            raise newer(name, version)


def check(data: bytes, name: str, schema: pa.Schema) -> None:
    """Raise as `parts` does, without holding the whole table."""
    for _ in parts(data, name, schema):
        pass


def decoded(data: bytes, name: str, schema: pa.Schema) -> pa.Table:
    """The whole table. Raises as `parts` does."""
    return pa.concat_tables(parts(data, name, schema))


def _with_later(found: pa.Table, schema: pa.Schema) -> pa.Table:
    for field in schema:
        if field.name in OLDER and field.name not in found.schema.names:
            values = pa.array([OLDER[field.name]] * len(found), field.type)
            found = found.append_column(field, values)
    return found


def newer(name: str, version: int) -> RunError:
    """The error for a file of a newer layout."""
    return RunError(f"{name} was written by a newer zooadapt (layout {version}): upgrade zooadapt")
