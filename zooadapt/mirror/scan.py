"""Read all records of a mirror: many at a time, and given out model by model.

A mirror with many records also has the archive: one object with copies of most records. So a job
asks the store for the archive and a few newer records, not for each record. The archive is made
from the records, in a compaction, and holds nothing else. Records that the archive lacks are read
from their own objects. If the archive can't be read, so are all records.
"""

import hashlib
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO

import pyarrow as pa

from zooadapt.errors import Damaged, RunError, one_line
from zooadapt.mirror import layout, records
from zooadapt.mirror.columns import (
    FAILURES_SCHEMA,
    LAYOUT_VERSION,
    MANIFEST_SCHEMA,
    VERSION_KEY,
)
from zooadapt.ranges import BLOCK
from zooadapt.stores.store import Store
from zooadapt.types import Row

ARCHIVE = "records.parquet"

RECORDS_AT_ONCE = 1000
"""The number of records read together. An archive that lacks more than that is made again."""

_ATTEMPTS = 3
"""The number of attempts to read records while another process sets some of them aside."""

_CHECKED = "zooadapt_columns"
"""The key in the archive's metadata for the `_COLUMNS` by which its records were checked."""
_COLUMNS = hashlib.sha256(
    "".join(
        schema.to_string(show_field_metadata=False, show_schema_metadata=False)
        for schema in (MANIFEST_SCHEMA, FAILURES_SCHEMA)
    ).encode()
).hexdigest()
"""A hash of the columns by which this zooadapt checks records."""
_SCHEMA = pa.schema(
    [pa.field("key", pa.string(), False), pa.field("record", pa.binary(), False)],
    {VERSION_KEY: str(LAYOUT_VERSION), _CHECKED: _COLUMNS},
)

_log = logging.getLogger("zooadapt")


def refuse_newer(store: Store) -> None:
    """Raise RunError for an archive of a newer layout."""
    with suppress(FileNotFoundError):
        layout.refuse_newer(store.read(ARCHIVE), ARCHIVE)


class Records:
    """The records of a mirror. Each pass over them sees the records that exist when it begins."""

    def __init__(
        self,
        store: Store,
        archived: bool = True,
        keep: bool = False,
        models: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """Without `archived` every record is read from its own object, not from the archive.

        With `keep` a pass stores what it has read in a temporary file, so that the next pass reads
        only new records from the store. `models`, pairs of zoo and name, limits the passes to these
        models' folders, which other models share where a store ignores case.
        """
        self.store = store
        self.damaged: dict[str, Damaged] = {}
        """What is wrong with each damaged record that a pass has met, by key."""
        self._archived, self._keep = archived, keep
        self._folders = None if models is None else {records.folder_of(*model) for model in models}
        self._kept: layout.Encoded | None = None
        """The sound records that a pass has stored; None before there is such a pass."""
        self._archive_size = 0
        """The number of records in the store's archive, as far as a pass has used it."""
        self._is_due = False
        """Whether the store's archive lacks so many records that it is to be replaced."""
        self._is_newer = False
        """Whether the store's archive is of a newer layout, which is never replaced."""

    def histories(self, archiving: bool = False) -> Iterator[list[Row]]:
        """One pass: each model's sound records as a list, the oldest first; models go by folder.

        With `archiving` the pass also makes a new archive, if one is due, for `leave_archive`.
        Raises RunError for a record of a newer layout.
        """
        for _, found in itertools.groupby(
            self._sound(archiving), lambda item: records.folder(item[0])
        ):
            models: dict[tuple[str, str], list[Row]] = {}
            for _, record in found:  # of two models, if their names differ only in case
                models.setdefault((record["zoo"], record["model"]), []).append(record)
            for _, history in sorted(models.items()):
                yield sorted(history, key=records.age)

    def warn_of_damaged(self) -> None:
        """Name the damaged records in the log."""
        for error in self.damaged.values():
            _log.warning(
                "%s and left out: a job makes its variants again; zooadapt rebuild sets it aside",
                error,
            )

    def leave_archive(self) -> None:
        """Write the archive that the last pass made, if one was due.

        Failing to write it only logs a warning, because the records hold the same.
        """
        if self._is_due and self._kept:
            file = self._kept.file
            file.seek(0)
            try:
                self.store.write(ARCHIVE, iter(lambda: file.read(BLOCK), b""))
                self._archive_size, self._is_due = len(self._kept), False
            except Exception as error:
                _log.warning("%s wasn't written: %s", ARCHIVE, one_line(error))

    def _list_keys(self) -> list[str]:
        """The keys of the records to read, sorted by `records.order`."""
        keys = [key for key in self.store.list("records") if key.endswith(".json")]
        if self._folders is not None:
            keys = [key for key in keys if records.folder(key) in self._folders]
        return sorted(keys, key=records.order)

    def _known(self, keys: Sequence[str]) -> "_Archive":
        """The records that needn't be read from their own objects."""
        archive = _Archive(self._kept)
        if not self._kept and self._archived and len(keys) > RECORDS_AT_ONCE:
            archive = _opened(self.store)
            self._archive_size, self._is_newer = len(archive), archive.is_newer
        self._is_due = len(keys) - self._archive_size > RECORDS_AT_ONCE and not self._is_newer
        return archive

    def _sound(self, archiving: bool) -> Iterator[tuple[str, Row]]:
        keys, self.damaged = self._list_keys(), {}
        archive = self._known(keys)
        made = _NewArchive() if self._keep or (archiving and self._is_due) else None
        for start in range(0, len(keys), RECORDS_AT_ONCE):
            batch = keys[start : start + RECORDS_AT_ONCE]
            archived = archive.take(batch)
            contents = archived | _read(self.store, [key for key in batch if key not in archived])
            sound, damaged = records.parse(contents, archived)
            self.damaged |= damaged
            good = [key for key in batch if key in sound]
            if made:
                made.add({"key": key, "record": contents[key]} for key in good)
            yield from ((key, sound[key]) for key in good)
        self._kept = made.closed() if made else None


def _read(store: Store, keys: Sequence[str]) -> dict[str, bytes]:
    """The records' contents, without records that were set aside after they were listed."""
    left = list(keys)
    for _ in range(_ATTEMPTS - 1):
        try:
            return store.read_many(left)
        except FileNotFoundError:
            left = [key for key in left if store.exists(key)]
    return store.read_many(left)


class _NewArchive:
    """An archive that is being made in a temporary file; it is given up where that is full."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `Records` keeps it
        self._writer: layout.Writer | None = layout.Writer(_SCHEMA, self._file)

    def add(self, rows: Iterable[Row]) -> None:
        if self._writer:
            self._trying(lambda writer: writer.add(rows))

    def closed(self) -> layout.Encoded | None:
        """The finished archive; None where it was given up."""
        if self._writer:
            self._trying(layout.Writer.close)
        return layout.Encoded(self._file) if self._writer else None

    def _trying(self, write: Callable[[layout.Writer], object]) -> None:
        assert self._writer
        try:
            write(self._writer)
        except OSError as error:
            self._writer = None
            _log.warning(
                "records can't be kept in %s (%s), and are read again from the mirror",
                tempfile.gettempdir(), one_line(error),
            )  # fmt: skip


class _Archive:
    """The records of an archive, which are taken in the order of their keys."""

    def __init__(self, encoded: layout.Encoded | None = None, is_newer: bool = False) -> None:
        self.is_newer = is_newer
        """Whether the store's archive is of a newer layout: it is neither read nor replaced."""
        self._encoded = encoded
        self._left = iter(encoded or ())
        self._next = next(self._left, None)

    def __len__(self) -> int:
        return len(self._encoded or ())

    def take(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The records of `keys` that the archive holds.

        `keys` must be sorted by `records.order`, and come after the keys of earlier calls.
        """
        if not keys:
            return {}
        wanted, last = set(keys), records.order(keys[-1])
        found: dict[str, bytes] = {}
        while self._next and records.order(self._next["key"]) <= last:
            if self._next["key"] in wanted:
                found[self._next["key"]] = self._next["record"]
            self._next = next(self._left, None)
        return found


def _opened(store: Store) -> _Archive:
    """The store's archive, with every byte checked; an empty one where it can't be used."""
    try:
        data = store.read(ARCHIVE)
        layout.check(data, ARCHIVE, _SCHEMA)
    except FileNotFoundError:
        return _Archive()
    except Exception as error:  # whatever fails, the records hold the same
        why = error if isinstance(error, RunError) else f"{ARCHIVE}: {one_line(error)}"
        _log.warning("%s; the records are read one by one instead", why)
        return _Archive(is_newer=isinstance(error, RunError) and not isinstance(error, Damaged))
    encoded = layout.Encoded(BytesIO(data))
    is_checked = encoded.stated.get(_CHECKED) == _COLUMNS
    return _Archive(encoded if is_checked else None)
