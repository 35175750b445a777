"""Read the rows of one mirror, or of several alternative ones, and filter them."""

import hashlib
import logging
import operator
from collections.abc import Sequence
from fnmatch import fnmatchcase
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from zooadapt.bands import parse
from zooadapt.errors import RunError, UsageError, ZooadaptError, one_line
from zooadapt.mirror import layout, manifest
from zooadapt.mirror.columns import KEY, MANIFEST_SCHEMA
from zooadapt.names import CONFIG
from zooadapt.reader import cache
from zooadapt.stores.store import Store
from zooadapt.targets import SCHEMES, Band, Bands, Target
from zooadapt.types import Row

if TYPE_CHECKING:
    import pandas as pd

State = tuple[Store, str]
"""A mirror, and which state of it to read: a run's id, a date, or "" for the current state."""

_TEXTS = {f.name for f in MANIFEST_SCHEMA if f.nullable and f.type == pa.string()}
"""The columns of texts that can be null."""
_NUMBERS = {f.name for f in MANIFEST_SCHEMA if f.nullable and f.type == pa.int64()}
"""The columns of numbers that can be null."""

_log = logging.getLogger("zooadapt")


class Manifests:
    """The manifests of several mirrors as one table, with a local copy of each for offline use."""

    def __init__(
        self, mirrors: Sequence[State], root: Path, offline: bool, prunable: bool = False
    ) -> None:
        """`root` is the cache folder. Of a `prunable` mirror, variants can have been removed."""
        self._mirrors, self._root, self._prunable = mirrors, root, prunable
        self.asked = [store for store, _ in mirrors if store.is_local or not offline]
        """The mirrors to read from: offline, only those on this machine."""
        self._read: pa.Table | None = None
        self._rows: pd.DataFrame | None = None

    def rows(self) -> "pd.DataFrame":
        """One row for each usable variant, from the first mirror that has it; read once, then kept.

        Raises as `table` does.
        """
        if self._rows is None:
            rows = self.table().to_pandas()
            for column in _TEXTS & {*rows.columns}:  # pandas 3 has NaN for null
                rows[column] = rows[column].astype(object).where(rows[column].notna(), None)
            rows = rows.astype(dict.fromkeys(_NUMBERS & {*rows.columns}, "Int64"))
            self._rows = rows.drop_duplicates(list(KEY), ignore_index=True)
        if self._prunable:
            return self._rows.loc[[*map(self._is_there, self._rows["folder"])]].copy()
        return self._rows.copy()

    def _is_there(self, folder: str) -> bool:
        """Whether the files of a variant of a prunable mirror are there."""
        return Path(self._mirrors[0][0].path(folder), CONFIG).exists()

    def named(self, model: str, zoo: str | None) -> list[Row]:
        """The rows of the model of just this name, without `created_at`; none for several zoos.

        "<zoo>/" can come before the name. This takes no pandas, which is slow to import, as most
        calls need nothing else of a table. Raises as `table` does.
        """
        table = self.table()
        names = {(None, model), tuple(model.split("/", 1))}
        keys = zip(table["zoo"].to_pylist(), table["model"].to_pylist(), strict=True)
        at = [n for n, (of, name) in enumerate(keys) if {(None, name), (of, name)} & names]
        plain = table.drop_columns(["created_at"])  # pyarrow imports pandas for times
        found = [row for n in at for row in plain.slice(n, 1).to_pylist()]
        unique = {tuple(row[name] for name in KEY): row for row in reversed(found)}
        found = [row for row in reversed(unique.values()) if zoo in (None, row["zoo"])]
        if self._prunable:
            found = [row for row in found if self._is_there(row["folder"])]
        return found if len({(row["zoo"], row["model"]) for row in found}) == 1 else []

    def table(self) -> pa.Table:
        """The tables of all mirrors, one after the other; read once, then kept.

        Mirrors that can't be read are named in warnings, if there are others. Raises UsageError if
        there is no mirror, RunError if the manifest can't be read or has a newer layout.
        """
        if self._read is None:
            tables = [table for table in map(self._table, self._mirrors) if table is not None]
            if not tables:
                raise RunError("none of the mirrors can be read; the warnings say why")
            # Other releases wrote other columns, or in another order.
            self._read = pa.concat_tables(tables, promote_options="default")
        return self._read

    def summary(self) -> str:
        """What the manifest holds, as it goes on after a name; "" where it wasn't read yet."""
        if self._read is None:
            return ""
        rows = self.rows()
        models = rows[["zoo", "model"]].drop_duplicates()
        return f": {len(rows):,} variants of {len(models):,} models"

    def _table(self, mirror: State) -> pa.Table | None:
        """The mirror's table; None if it can't be read and there are other mirrors."""
        store, at = mirror
        try:
            return self._online(store, at) if store in self.asked else self._kept(store, at)
        except Exception as error:
            if len(self._mirrors) == 1 and isinstance(error, ZooadaptError):
                raise
            line = f"the manifest of {store.url} can't be read: {one_line(error)}"
            if len(self._mirrors) == 1:
                raise RunError(line) from error
            _log.warning("%s; the other mirrors are read", line)
            return None

    def _online(self, store: Store, at: str) -> pa.Table:
        """The table read from the mirror; a local copy is kept for offline use."""
        if at:
            table = manifest.read_snapshot(store, at)
        else:
            table = manifest.read_table(store, manifest.MANIFEST)
        if not store.is_local:
            self._keep(self._file(store, at), table)
        return table

    @staticmethod
    def _keep(file: Path, table: pa.Table) -> None:
        try:
            cache.make_folder(file.parent)
        except UsageError as error:
            _log.warning("the manifest can't be kept for offline use: %s", error)
            return
        with cache.replacing(file) as unfinished:
            unfinished.write_bytes(layout.encoded(table))

    def _kept(self, store: Store, at: str) -> pa.Table:
        """The local copy of the mirror's table. Raises UsageError if it was never read online."""
        file = self._file(store, at)
        if not file.exists():
            raise UsageError(f"{store.url} can't be read: it was never read while online")
        return layout.decoded(file.read_bytes(), str(file), MANIFEST_SCHEMA)

    def _file(self, store: Store, at: str) -> Path:
        name = hashlib.sha256(f"{store.root}@{at}".encode()).hexdigest()[:32]
        return self._root / "manifests" / f"{name}.parquet"


def with_bands(rows: "pd.DataFrame", bands: str) -> "pd.DataFrame":
    """The rows for `bands`, written as for ``--bands``: a preset, names, or a band file.

    Raises UsageError for invalid bands.
    """
    names, found = _named(bands)
    digest = found.digest if found else ""
    rows = rows.loc[[name.partition(".")[2] == digest for name in rows["scheme"]]]
    return rows[rows["bands"] == ",".join(names)]


def preferred(rows: Sequence[Row]) -> list[Row]:
    """The rows in the order in which readers prefer their schemes, if they named none."""
    ranks = {"rgb-only": 0, "nearest": 1}
    return sorted(rows, key=lambda row: ranks.get(row["scheme"].partition(".")[0], 2))


def where(rows: "pd.DataFrame", column: str, wanted: Any) -> "pd.DataFrame":
    """The rows whose cell matches `wanted` as a glob if it is text, or else equals `wanted`.

    Of several in a list one must match. "unknown" matches a cell without a value. Raises UsageError
    if there is no such column.
    """
    if column not in rows:
        raise UsageError(f"no column {column}; there are {', '.join(rows.columns)}")
    several = wanted if isinstance(wanted, list | tuple | set) else [wanted]
    return rows.loc[[any(_matches(cell, each) for each in several) for cell in rows[column]]]


def _matches(cell: Any, wanted: Any) -> bool:
    if isinstance(wanted, str):
        return fnmatchcase("unknown" if cell is None else str(cell), wanted)
    return bool(cell == wanted)


def target(in_chans: int | None, bands: str | Sequence[str] | None, scheme: str | None) -> Target:
    """The target that a reader's arguments ask for. Raises UsageError for invalid arguments."""
    bands = joined(bands)
    if in_chans is None and bands is None:
        raise UsageError("give in_chans=, such as 4, or bands=, such as 'R,G,B,NIR'")
    if in_chans is not None and bands is not None:
        raise UsageError("give either in_chans or bands, not both")
    if in_chans is not None:
        in_chans = _number(in_chans)
    if scheme is not None and scheme not in SCHEMES:
        raise UsageError(f"no scheme {scheme}; there are {', '.join(SCHEMES)}")
    if in_chans is not None:
        if in_chans < 1:
            raise UsageError(f"in_chans={in_chans} isn't a channel count; it is 1 or more")
        return Target.of(Bands.counted(in_chans), scheme)
    names, found = _named(bands or "")
    return Target.of(found or Bands("-".join(names), tuple(map(Band, names))), scheme)


def _number(in_chans: Any) -> int:
    """A number of channels of any integer type, such as NumPy's. Raises UsageError."""
    try:
        if not isinstance(in_chans, bool):
            return operator.index(in_chans)
    except TypeError:
        pass
    raise UsageError(f"in_chans={in_chans!r} isn't a number of channels, such as 4")


def joined(bands: str | Sequence[str] | None) -> str | None:
    """Bands as one text; names in a list are joined by commas. Raises UsageError."""
    if bands is None or isinstance(bands, str):
        return bands
    if isinstance(bands, PathLike):
        return str(fspath(bands))
    if not isinstance(bands, Sequence) or not all(isinstance(name, str) for name in bands):
        raise UsageError(f"bands={bands!r} isn't the name of a preset, nor names of bands")
    return ",".join(bands)


def _named(bands: str) -> tuple[tuple[str, ...], Bands | None]:
    """The names of the bands, and the bands; None if only rows of the mirror can know the names."""
    try:
        found = parse(bands)
    except UsageError:
        if "," not in bands or ":" in bands:
            raise
        return tuple(name.strip() for name in bands.split(",")), None
    return found.names, found
