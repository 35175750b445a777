"""Ways to damage a mirror in a local folder."""

from pathlib import Path

import pyarrow.parquet as pq


def flip(file: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def one(mirror: Path, glob: str) -> Path:
    """The first file of the mirror that matches the glob."""
    return sorted(mirror.glob(glob))[0]


def edit_table(mirror: Path, column: str, values: list[object]) -> None:
    """Put other values into a column of the manifest."""
    file = mirror / "manifest.parquet"
    table = pq.read_table(file)
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, table.schema.field(column), [values]), file)
