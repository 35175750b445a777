"""The records of a mirror, read many at a time.

Where there are many, most lie in one object too, the archive: so a job asks the store for that and
for a few more, not for each. It says nothing of its own. It is made of the records, by whoever
compacts them, and what it lacks, or what can't be read of it, is read from them.
"""

import hashlib
import itertools
import logging
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import pyarrow as pa

from zooadapt.errors import Damaged, RunError, one_line
from zooadapt.mirror import layout
from zooadapt.mirror.columns import FAILURES_SCHEMA, MANIFEST_SCHEMA
from zooadapt.mirror.layout import Row
from zooadapt.names import safe
from zooadapt.stores.store import Store

ARCHIVE = "records.parquet"

AT_ONCE = 1000
"""Records read together, and those that may be missing from the archive before it is made anew."""

_ATTEMPTS = 3
"""At reading records while others are set aside."""

_CHECKED = "zooadapt_columns"
"""Under which the archive's metadata state for which columns its records were found sound."""
_COLUMNS = hashlib.sha256(
    "".join(
        schema.to_string(show_field_metadata=False, show_schema_metadata=False)
        for schema in (MANIFEST_SCHEMA, FAILURES_SCHEMA)
    ).encode()
).hexdigest()
_SCHEMA = pa.schema(
    [pa.field("key", pa.string(), False), pa.field("record", pa.binary(), False)],
    {layout.VERSION_KEY: str(layout.LAYOUT_VERSION), _CHECKED: _COLUMNS},
)

_log = logging.getLogger("zooadapt")


def refuse_newer(store: Store) -> None:
    """Raise RunError for an archive of a newer layout."""
    with suppress(FileNotFoundError):
        layout.refuse_newer(store.read(ARCHIVE), ARCHIVE)


class Reading:
    """One pass over the records that a mirror has when it begins."""

    def __init__(
        self,
        store: Store,
        archived: bool = True,
        archiving: bool = False,
        models: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """Without `archived` each record is read itself.

        With `archiving` a new archive is made on the way, if it is due. Of `models`, by zoo and
        name, only the records in their folders are read, those that others have there too.
        """
        self.store = store
        self.damaged: dict[str, Damaged] = {}
        """What is wrong with records, by their keys; of those that have been passed."""
        keys = [key for key in store.list("records") if key.endswith(".json")]
        if models is not None:
            folders = {_folder_of(*model) for model in models}
            keys = [key for key in keys if _folder(key) in folders]
        self._keys = sorted(keys, key=_order)
        self._archive = _Archive(store if archived and len(keys) > AT_ONCE else None)
        lacking = len(keys) - len(self._archive)
        is_due = archiving and lacking > AT_ONCE and not self._archive.is_newer
        self._new = layout.Writer(_SCHEMA) if is_due else None

    def histories(self) -> Iterator[list[Row]]:
        """The records of each model, the oldest first, model by model in the order of their names.

        Raises RunError naming a record of a newer layout.
        """
        for _, found in itertools.groupby(self._sound(), lambda item: _folder(item[0])):
            models: dict[tuple[str, str], list[Row]] = {}
            for _, record in found:  # perhaps of two, that differ in nothing but case
                models.setdefault((record["zoo"], record["model"]), []).append(record)
            for _, records in sorted(models.items()):
                yield sorted(records, key=age)

    def leave_archive(self) -> None:
        """Put the new archive, if one was due, where jobs look for it; when all have been passed.

        Nobody fails for want of it.
        """
        if self._new:
            try:
                self.store.write(ARCHIVE, [self._new.close()])
            except Exception as error:
                _log.warning("%s wasn't written: %s", ARCHIVE, one_line(error))

    def _sound(self) -> Iterator[tuple[str, Row]]:
        for start in range(0, len(self._keys), AT_ONCE):
            keys = self._keys[start : start + AT_ONCE]
            archived = self._archive.take(keys)
            contents = archived | _read(self.store, [key for key in keys if key not in archived])
            sound, damaged = layout.records(contents, MANIFEST_SCHEMA, FAILURES_SCHEMA, archived)
            astray = {key: _elsewhere(key) for key in sound if not _is_of(key, sound[key])}
            self.damaged |= damaged | astray
            left = [key for key in keys if key in sound and key not in astray]
            if self._new:
                self._new.add({"key": key, "record": contents[key]} for key in left)
            yield from ((key, sound[key]) for key in left)


def age(record: Row) -> tuple[str, str]:
    """By which records are sorted, the oldest first."""
    return record["created_at"], record["run_id"]


def _read(store: Store, keys: Sequence[str]) -> dict[str, bytes]:
    """The records but for those that were set aside since they were listed."""
    left = list(keys)
    for _ in range(_ATTEMPTS - 1):
        try:
            return store.read_many(left)
        except FileNotFoundError:
            left = [key for key in left if store.exists(key)]
    return store.read_many(left)


def _is_of(key: str, record: Row) -> bool:
    """Whether a record lies where those of its model do."""
    return _folder(key) == _folder_of(record["zoo"], record["model"])


def _elsewhere(key: str) -> Damaged:
    return Damaged(f"{key} is damaged (it is of a model whose records lie elsewhere)")


def _folder(key: str) -> str:
    """That of a record, whatever the case of its letters: some store may have known none.

    There two models shared one, and had one each once the mirror was copied to another.
    """
    return posixpath.dirname(key).lower()


def _folder_of(zoo: str, model: str) -> str:
    return f"records/{safe(zoo)}/{safe(model)}".lower()


def _order(key: str) -> str:
    """So that keys are sorted by their parts, as "/" isn't the least of the characters."""
    return key.lower().replace("/", "\0")


class _Archive:
    """What the archive holds, in the order of the keys; nothing where there is none of use."""

    def __init__(self, store: Store | None) -> None:
        self.is_newer = False
        """Whether it is of a newer layout, which nobody replaces who doesn't know it."""
        self._encoded = self._opened(store) if store else None
        self._left = iter(self._encoded or ())
        self._next = next(self._left, None)

    def __len__(self) -> int:
        return len(self._encoded or ())

    def take(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Those of the next keys, in their order, that it holds."""
        wanted, last = set(keys), _order(keys[-1])
        found: dict[str, bytes] = {}
        while self._next and _order(self._next["key"]) <= last:
            if self._next["key"] in wanted:
                found[self._next["key"]] = self._next["record"]
            self._next = next(self._left, None)
        return found

    def _opened(self, store: Store) -> layout.Encoded | None:
        """The archive, every byte of it checked."""
        try:
            data = store.read(ARCHIVE)
            layout.check(data, ARCHIVE, _SCHEMA)
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever it is, the records tell the same
            self.is_newer = isinstance(error, RunError) and not isinstance(error, Damaged)
            why = error if isinstance(error, RunError) else f"{ARCHIVE}: {one_line(error)}"
            _log.warning("%s; meanwhile records are read one by one", why)
            return None
        encoded = layout.Encoded(data)
        return encoded if encoded.stated.get(_CHECKED) == _COLUMNS else None
